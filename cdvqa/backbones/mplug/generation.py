"""Open-ended answers, found by the authors' beam search."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache

# (ids, states, states_mask, positions, mask, cache) → scores of the next word piece, (B, beams, V)
NextPiece = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, EncoderDecoderCache], Tensor]


class Generated(NamedTuple):
    """The result of a beam search.

    Attributes:
        ids: (B, 1 + max_length) int64, start token and word pieces, padded with the end token.
        lengths: (B,) int64, number of ids before the padding, start and end tokens included.
        scores: (B,) log-probability divided by the length penalty.
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
) -> Generated:
    """The best answer to each question.

    All beams of a question are one row: a beam is the set of earlier word pieces that its next one attends to. So keys
    and values of image and question are computed and stored once, and those of word pieces are never copied.

    Scores are log-probabilities divided by ((6 + step) / 6)^0.6. A beam that ends is recorded and still extended. The
    search for a question stops when its best beam ends; the answer is the best of all recorded beams.

    Args:
        next_piece: the decoder and its head.
        states: image and question, (B, S, H).
        states_mask: (B, S) bool.
        beam_size: K, number of beams of a question.
        max_length: word pieces after the start token, at most.
        start, end: tokens before and after an answer; the end is never the first word piece.

    Source: the authors' text generator ("Training / evaluation" of mPLUG).
    """
    count, device = len(states), states.device
    found = Generated(
        torch.full((count, 1 + max_length), end, device=device),
        torch.zeros(count, dtype=torch.int64, device=device),
        torch.full((count,), -torch.inf, dtype=torch.promote_types(states.dtype, torch.float32), device=device),
    )
    running = torch.arange(count, device=device)  # questions that are still searched
    pieces = torch.full((count, 1, 1), start, device=device)  # (questions, beams, pieces so far)
    scores = found.scores.new_zeros(count, 1)
    attends = torch.ones(count, 1, 1, dtype=torch.bool, device=device)  # (questions, beams, pieces in the cache)
    own = torch.eye(beam_size, dtype=torch.bool, device=device)
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    for step in range(max_length):
        position = torch.full((1, pieces.shape[1]), step, device=device)
        logits = next_piece(pieces[:, :, -1], states, states_mask, position, attends, cache)
        log_probs = logits.to(scores.dtype).log_softmax(dim=-1)
        if step == 0:
            log_probs[..., end] = -torch.inf
        penalty = ((6 + step) / 6) ** 0.6
        ranked, chosen = ((scores[..., None] + log_probs) / penalty).flatten(1).topk(beam_size)
        parent, piece = chosen // log_probs.shape[-1], chosen % log_probs.shape[-1]
        pieces = torch.cat([rows(pieces, parent), piece[..., None]], dim=-1)
        scores = ranked * penalty
        attends = torch.cat([rows(attends, parent), own.expand(len(running), -1, -1)], dim=-1)

        ended = piece == end if step + 1 < max_length else torch.ones_like(piece, dtype=torch.bool)
        record(found, running, ended, pieces, ranked)
        going = (~ended[:, 0]).nonzero()[:, 0]
        if len(going) == 0:
            break
        if len(going) < len(running):
            running, pieces, scores, attends = (part[going] for part in (running, pieces, scores, attends))
            states, states_mask = states[going], states_mask[going]
            cache.batch_select_indices(going)
    return found


def rows(beams: Tensor, parent: Tensor) -> Tensor:
    """The rows (B, K, …) of `beams` (B, K', …) at the indices `parent` (B, K)."""
    return beams.gather(1, parent[..., None].expand(-1, -1, beams.shape[-1]))


def record(found: Generated, running: Tensor, ended: Tensor, pieces: Tensor, ranked: Tensor) -> None:
    """Write the best beam that ended at this step into `found`, for each question where it is better.

    Args:
        found: changed in place.
        running: (Q,) indices into `found` of the questions that are still searched.
        ended: (Q, K) bool, beams that end at this step; best first, as are all beams.
        pieces: (Q, K, step + 2) word pieces of each beam.
        ranked: (Q, K) scores.
    """
    first = ended.int().argmax(dim=1, keepdim=True)
    score = ranked.gather(1, first)[:, 0].masked_fill(~ended.any(dim=1), -torch.inf)
    better = (score > found.scores[running]).nonzero()[:, 0]
    question = running[better]
    found.scores[question] = score[better]
    found.lengths[question] = pieces.shape[-1]
    found.ids[question, : pieces.shape[-1]] = rows(pieces, first)[better, 0]
