"""The answer prior of each question type: p_b in Eqs. 5 to 8 of the paper."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cdvqa.data.answers.normalisation import normalise_answer
from cdvqa.data.answers.targets import SoftTargets
from cdvqa.data.answers.vocabulary import AnswerVocabulary
from cdvqa.data.questions.annotations import Annotations, Categories, JsonRecord
from cdvqa.presets import SoftScore


class QuestionTypePrior:
    """Mean soft score of every answer over the training questions of a type.

    A question type that no training question has gets a row of zeros: nothing is known of its answers.

    Args:
        question_types: names of the rows.
        table: (types, A) float32.
    """

    def __init__(self, question_types: Sequence[str], table: NDArray[np.float32]) -> None:
        self.question_types = list(question_types)
        self.table = table
        self._index = {name: row for row, name in enumerate(self.question_types)}

    @classmethod
    def from_annotations(
        cls,
        annotations: Annotations | Sequence[JsonRecord],
        vocabulary: AnswerVocabulary,
        rule: SoftScore = "third",
        normalise: bool = False,
    ) -> QuestionTypePrior:
        """Average the soft targets within each question type.

        Args:
            annotations: the questions trained on (N of them, those without an in-vocabulary answer included).
            vocabulary: the answers, A of them.
            rule: soft score, see `soft_scores`.
            normalise: divide each row by its sum. By default rows sum to 1.1 … 2.2, as in the authors' code.

        Returns:
            A prior with its question types in order of first appearance.
        """
        annotations = Annotations.of(annotations)
        targets = SoftTargets.from_annotations(annotations, vocabulary, rule)
        return cls.from_targets(annotations.question_type, targets, normalise)

    @classmethod
    def from_targets(cls, types: Categories, targets: SoftTargets, normalise: bool = False) -> QuestionTypePrior:
        """The same from the question types and the soft targets of the questions trained on."""
        cell = np.repeat(types.codes.astype(np.int64), np.diff(targets.offsets)) * targets.num_answers + targets.label
        cells = len(types.names) * targets.num_answers
        total = np.bincount(cell, weights=targets.score.astype(np.float64), minlength=cells)
        table = total.reshape(len(types.names), -1) / np.bincount(types.codes, minlength=len(types.names))[:, None]
        if normalise:
            table /= np.maximum(table.sum(1, keepdims=True), np.finfo(np.float64).tiny)
        return cls(types.names, table.astype(np.float32))

    def row(self, question_type: str) -> NDArray[np.float32]:
        """Prior (A,) of a question type; zeros if it is unknown."""
        known = self._index.get(question_type)
        return self.table[known] if known is not None else np.zeros(self.table.shape[1], np.float32)

    def rows(self, question_types: Sequence[str]) -> NDArray[np.float32]:
        """Priors (T, A) of several question types."""
        return np.stack([self.row(name) for name in question_types])


def answer_counts(
    annotations: Annotations, vocabulary: AnswerVocabulary, question_types: Sequence[str]
) -> NDArray[np.float32]:
    """How often each answer occurs among the normalised human answers to the questions of a type, (types, A)."""
    answers = annotations.answers
    label = np.array([vocabulary.index(normalise_answer(name)) for name in answers.names], np.int64)[answers.codes]
    kind = np.repeat(annotations.question_type.codes_in(question_types), np.diff(answers.offsets))
    cell = (kind * len(vocabulary) + label)[label >= 0]
    counts = np.bincount(cell, minlength=len(question_types) * len(vocabulary))
    return counts.reshape(len(question_types), -1).astype(np.float32)
