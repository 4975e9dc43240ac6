"""Answers of any wording, found by the authors' beam search."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache

# (ids, states, states_mask, positions, mask, cache) → scores of the next word piece, (B, beams, V)
NextPiece = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, EncoderDecoderCache], Tensor]


class Said(NamedTuple):
    """What a beam search found.

    Attributes:
        ids: (B, 1 + max_length) word pieces from the start token on, filled up with the end token.
        lengths: (B,) how many of them are the answer, start and end tokens among them.
        scores: (B,) log-probability over the length penalty.
    """

    ids: Tensor
    lengths: Tensor
    scores: Tensor


@torch.no_grad()
def beam_search(
    next_piece: NextPiece,
    states: Tensor,
    states_mask: Tensor,
    *,
    beam_size: int,
    max_length: int,
    start: int,
    end: int,
) -> Said:
    """The best answer to each question.

    All beams of a question are one row: a beam is a set of earlier word pieces that its next one looks at. So keys and
    values of image and question are computed once and stored once, and those of word pieces never move.

    Scores are log-probabilities over ((6 + step) / 6)^0.6. A beam that ends is remembered and goes on; a question is
    done when its best beam ends, and its answer is the best that ever ended.

    Args:
        next_piece: the decoder and its head.
        states: image and question, (B, S, H).
        states_mask: (B, S) bool.
        beam_size: beams of a question.
        max_length: word pieces after the start token.
        start, end: the tokens around an answer; the end is never the first word piece.

    Source: the authors' text generator ("Training / evaluation" of mPLUG).
    """
    count, device = len(states), states.device
    found = Said(
        torch.full((count, 1 + max_length), end, device=device),
        torch.zeros(count, dtype=torch.int64, device=device),
        torch.full((count,), -torch.inf, dtype=torch.promote_types(states.dtype, torch.float32), device=device),
    )
    running = torch.arange(count, device=device)  # questions that are not done
    pieces = torch.full((count, 1, 1), start, device=device)  # (questions, beams, pieces so far)
    scores = found.scores.new_zeros(count, 1)
    looks_at = torch.ones(count, 1, 1, dtype=torch.bool, device=device)  # (questions, beams, pieces in the cache)
    own = torch.eye(beam_size, dtype=torch.bool, device=device)
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    for step in range(max_length):
        position = torch.full((1, pieces.shape[1]), step, device=device)
        logits = next_piece(pieces[:, :, -1], states, states_mask, position, looks_at, cache)
        log_probs = logits.to(scores.dtype).log_softmax(dim=-1)
        if step == 0:
            log_probs[..., end] = -torch.inf
        penalty = ((6 + step) / 6) ** 0.6
        ranked, chosen = ((scores[..., None] + log_probs) / penalty).flatten(1).topk(beam_size)
        parent, piece = chosen // log_probs.shape[-1], chosen % log_probs.shape[-1]
        pieces = torch.cat([rows(pieces, parent), piece[..., None]], dim=-1)
        scores = ranked * penalty
        looks_at = torch.cat([rows(looks_at, parent), own.expand(len(running), -1, -1)], dim=-1)

        ended = piece == end if step + 1 < max_length else torch.ones_like(piece, dtype=torch.bool)
        remember(found, running, ended, pieces, ranked)
        going = (~ended[:, 0]).nonzero()[:, 0]
        if len(going) == 0:
            break
        if len(going) < len(running):
            running, pieces, scores, looks_at = (part[going] for part in (running, pieces, scores, looks_at))
            states, states_mask = states[going], states_mask[going]
            cache.batch_select_indices(going)
    return found


def rows(beams: Tensor, parent: Tensor) -> Tensor:
    """The rows (B, K, …) of `beams` that `parent` (B, K) names."""
    return beams.gather(1, parent[..., None].expand(-1, -1, beams.shape[-1]))


def remember(found: Said, running: Tensor, ended: Tensor, pieces: Tensor, ranked: Tensor) -> None:
    """Enter the best beam that ended at this step wherever it beats what was found; beams are ranked best first."""
    first = ended.int().argmax(dim=1, keepdim=True)
    score = ranked.gather(1, first)[:, 0].masked_fill(~ended.any(dim=1), -torch.inf)
    better = (score > found.scores[running]).nonzero()[:, 0]
    question = running[better]
    found.scores[question] = score[better]
    found.lengths[question] = pieces.shape[-1]
    found.ids[question, : pieces.shape[-1]] = rows(pieces, first)[better, 0]
