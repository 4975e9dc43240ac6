"""The answer vocabulary and the soft score of an answer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cdvqa.data.answers.normalisation import normalise_answer
from cdvqa.data.questions.annotations import Annotations, JsonRecord
from cdvqa.errors import InputError
from cdvqa.presets import SoftScore

_CLARK = np.array([0.0, 0.3, 0.6, 0.9, 1.0])


def soft_scores(counts: ArrayLike, rule: SoftScore = "third") -> NDArray[np.float64]:
    """Soft score of an answer that `counts` of the human annotators gave.

    Args:
        counts: numbers of annotators, any shape.
        rule: `third` is min(n / 3, 1), as in VQA-VS; `clark` is 0, .3, .6, .9, then 1, as in Clark et al. (2019).

    Returns:
        Scores in [0, 1], float64, of the shape of `counts`.

    Raises:
        InputError: there is no such rule.
    """
    counts = np.asarray(counts)
    scores: NDArray[np.float64]
    match rule:
        case "third":
            scores = np.minimum(counts / 3, 1.0)
        case "clark":
            scores = _CLARK[np.minimum(counts, 4)]
        case _:
            raise InputError(f"soft score {rule!r} is unknown; use 'third' or 'clark'")
    return scores


def count_answers(annotations: Annotations | Sequence[JsonRecord]) -> dict[str, int]:
    """Questions of each normalised multiple-choice answer, in order of first appearance."""
    column = Annotations.of(annotations).multiple_choice_answer
    counts: dict[str, int] = {}
    for answer, count in zip(column.names, np.bincount(column.codes, minlength=len(column.names)), strict=True):
        normalised = normalise_answer(answer)
        counts[normalised] = counts.get(normalised, 0) + int(count)
    return counts


class AnswerVocabulary:
    """The answers a classifier can give; an answer's index is its position in `answers`.

    Args:
        answers: A strings in index order.

    Raises:
        InputError: an answer is duplicate.
    """

    def __init__(self, answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self._index = {answer: index for index, answer in enumerate(self.answers)}
        if len(self._index) != len(self.answers):
            twice = next(answer for index, answer in enumerate(self.answers) if self._index[answer] != index)
            raise InputError(f"answer vocabulary: duplicate answer {twice!r}")

    @classmethod
    def from_annotations(cls, annotations: Annotations | Sequence[JsonRecord], min_count: int = 9) -> AnswerVocabulary:
        """Normalised multiple-choice answers of at least `min_count` questions, in order of first appearance.

        Args:
            annotations: the whole official train split.
            min_count: questions an answer must be the multiple-choice answer of.
        """
        return cls([answer for answer, count in count_answers(annotations).items() if count >= min_count])

    def __len__(self) -> int:
        return len(self.answers)

    def __contains__(self, answer: object) -> bool:
        return answer in self._index

    def __repr__(self) -> str:
        return f"AnswerVocabulary({len(self)} answers)"

    def index(self, answer: str) -> int:
        """Index of an answer as written (nothing is normalised); −1 if it is not in the vocabulary."""
        return self._index.get(answer, -1)
