"""The human answers of questions as sequences of word pieces, for generative backbones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning.utilities import rank_zero_warn
from tokenizers import Tokenizer

from cdvqa.data.batch import AnswerSequences
from cdvqa.data.questions.annotations import Annotations, ragged_positions

_UNWRITTEN = 0.01  # share of the human answers with unknown word pieces above which a warning is given


@dataclass(frozen=True)
class AnswerTexts:
    """The distinct raw answers of N training questions, in each question by first appearance, as mPLUG is trained.

    Question i has the entries offsets[i] … offsets[i + 1] of `code` (into the tokenised strings), `weight` (float64:
    share of the question's human answers) and `prior` (float32: share of the string among all human answers to the
    questions of the type, p_b). String j has the word pieces piece_offsets[j] … piece_offsets[j + 1] of `pieces`.
    """

    offsets: NDArray[np.int64]
    code: NDArray[np.int32]
    weight: NDArray[np.float64]
    prior: NDArray[np.float32]
    pieces: NDArray[np.uint32]
    piece_offsets: NDArray[np.int64]

    @classmethod
    def from_annotations(cls, annotations: Annotations, tokenizer: Tokenizer) -> AnswerTexts:
        """Count the answers of the questions trained on, and tokenise each distinct string once.

        Warns if the word pieces cannot write more than one in a hundred of the human answers.
        """
        answers, types = annotations.answers, annotations.question_type
        strings = len(answers.names)
        question, code, count, offsets = answers.distinct(answers.codes, strings)
        kind = types.codes[question].astype(np.int64)
        _, cell = np.unique(kind * strings + code, return_inverse=True)
        of_type = np.bincount(kind, weights=count)
        prior = np.bincount(cell, weights=count)[cell] / of_type[kind]
        pieces, piece_offsets = _tokenise(answers.names, tokenizer)
        weight = count / np.diff(answers.offsets)[question]
        string = np.repeat(np.arange(strings), np.diff(piece_offsets))
        unwritten = np.isin(code, string[pieces == tokenizer.token_to_id("[UNK]")])
        share = weight[unwritten].sum() / weight.sum()
        if share > _UNWRITTEN:
            rank_zero_warn(
                f"--data.tokenizer: its word pieces cannot write {share:.0%} of the human answers, the first "
                f"{answers.names[code[unwritten.argmax()]]!r}; the model cannot learn these: use other word pieces"
            )
        return cls(offsets, code.astype(np.int32), weight, prior.astype(np.float32), pieces, piece_offsets)

    def batch(self, rows: NDArray[np.intp]) -> AnswerSequences:
        """The answers of the questions in these rows (B,)."""
        number = np.diff(self.offsets)[rows]
        entries = ragged_positions(self.offsets[rows], number)
        code = self.code[entries]
        lengths = np.diff(self.piece_offsets)[code]
        mask = np.arange(lengths.max(initial=0)) < lengths[:, None]
        ids = np.zeros(mask.shape, np.int64)
        ids[mask] = self.pieces[ragged_positions(self.piece_offsets[code], lengths)]
        return AnswerSequences(
            ids=torch.from_numpy(ids),
            mask=torch.from_numpy(mask.astype(np.int64)),
            question=torch.from_numpy(np.repeat(np.arange(len(rows)), number)),
            weight=torch.from_numpy(self.weight[entries].astype(np.float32)),
            prior=torch.from_numpy(self.prior[entries]),
        )


def _tokenise(answers: Sequence[str], tokenizer: Tokenizer) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """Word pieces of all answers, and where each begins: [CLS] answer [SEP] [SEP], as in the authors' code, uncut."""
    pieces: list[int] = []
    ends = [0]
    for start in range(0, len(answers), 1 << 14):
        chunk = [f"{answer}[SEP]" for answer in answers[start : start + (1 << 14)]]
        for encoding in tokenizer.encode_batch_fast(chunk, add_special_tokens=True):
            pieces.extend(encoding.ids)
            ends.append(len(pieces))
    return np.array(pieces, np.uint32), np.array(ends, np.int64)
