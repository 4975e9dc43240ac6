"""Answers from the vocabulary: their word pieces, and which of them is most likely."""

from collections.abc import Callable, Iterable

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence


class Spelling:
    """The vocabulary's answers in word pieces.

    Attributes:
        answers: the A strings.
        ids: (A, L) int64, start token, word pieces and end token, padded with 0.
        lengths: (A,) int64, number of ids that are not padding.
    """

    def __init__(self, answers: list[str], tokenizer: Tokenizer, start: int, end: int) -> None:
        self.answers = answers
        self._tokenizer = tokenizer
        self._special = {0, start, end}
        pieces = [encoding.ids for encoding in tokenizer.encode_batch_fast(answers, add_special_tokens=False)]
        sequences = [torch.tensor([start, *ids, end]) for ids in pieces]
        self.ids = pad_sequence(sequences, batch_first=True)
        self.lengths = torch.tensor([len(sequence) for sequence in sequences])
        # Of two answers with the same spelling, the first.
        self._answer = {tuple(ids): answer for ids, answer in zip(reversed(pieces), reversed(answers), strict=True)}

    def read(self, ids: Iterable[int]) -> str:
        """The answer of the vocabulary with these word pieces; if there is none, their text."""
        pieces = tuple(piece for piece in ids if piece not in self._special)
        answer = self._answer.get(pieces)
        return self._tokenizer.decode(list(pieces)) if answer is None else answer


@torch.no_grad()
def likeliest(
    decode: Callable[[Tensor, Tensor, Tensor], Tensor],
    head: Callable[[Tensor], Tensor],
    states: Tensor,
    states_mask: Tensor,
    spelling: Spelling,
    number: int,
) -> Tensor:
    """Index of the answer with the highest log-probability, (B,) int64.

    Only the `number` answers with the most likely first word pieces are compared.

    Args:
        decode: ids (B, M, L) of M answers, states, states_mask → hidden states (B, M, L, H).
        head: hidden states → scores of the next word piece.
        states: image and question, (B, S, H).
        states_mask: (B, S) bool.
        spelling: of the vocabulary.
        number: answers to compare for each question, at most.

    Source: ALBEF's ranking of answers; mPLUG's code contains it but does not use it.
    """
    ids, lengths = spelling.ids.to(states.device), spelling.lengths.to(states.device)
    start = decode(ids[:1, None, :1].expand(len(states), 1, 1), states, states_mask)[:, 0, 0]
    first = head(start).float().log_softmax(dim=-1)[:, ids[:, 1]]
    chosen = first.topk(min(number, len(ids))).indices
    hidden = decode(ids[chosen, :-1], states, states_mask)
    target = ids[:, 1:].masked_fill(torch.arange(1, ids.shape[1], device=ids.device) >= lengths[:, None], -100)
    best = []
    for own, candidates in zip(
        hidden, chosen, strict=True
    ):  # scores of all questions at once would not fit into memory
        loss = functional.cross_entropy(head(own).float().transpose(1, 2), target[candidates], reduction="none")
        best.append(candidates[loss.sum(dim=1).argmin()])
    return torch.stack(best)
