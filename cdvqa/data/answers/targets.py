"""Soft targets and labels of annotated questions under a vocabulary, stored sparsely."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cdvqa.data.answers.vocabulary import AnswerVocabulary, soft_scores
from cdvqa.data.questions.annotations import Annotations, JsonRecord, ragged_offsets, ragged_positions
from cdvqa.presets import SoftScore


@dataclass(frozen=True)
class SoftTargets:
    """In-vocabulary answers of N questions, in each question by first appearance among its human answers.

    Question i has the entries offsets[i] … offsets[i + 1] of `label` (int64) and `score` (float32). `best_label` (N,)
    is the label of the largest score, the first one on a tie, and −1 where no answer is in the vocabulary.
    """

    num_answers: int
    offsets: NDArray[np.int64]
    label: NDArray[np.int64]
    score: NDArray[np.float32]
    best_label: NDArray[np.int64]

    @classmethod
    def from_annotations(
        cls, annotations: Annotations | Sequence[JsonRecord], vocabulary: AnswerVocabulary, rule: SoftScore = "third"
    ) -> SoftTargets:
        """Count the raw human answers (they are matched to the vocabulary as written) and score the counts."""
        answers = Annotations.of(annotations).answers
        index = np.array([vocabulary.index(name) for name in answers.names], np.int64)
        question, label, count, offsets = answers.distinct(index[answers.codes], len(vocabulary))
        score = soft_scores(count, rule)
        best_first = np.lexsort((np.arange(len(score)), -score, question))
        best_label = np.full(len(answers), -1, np.int64)
        answered = offsets[:-1] < offsets[1:]
        best_label[answered] = label[best_first[offsets[:-1][answered]]]
        return cls(len(vocabulary), offsets, label, score.astype(np.float32), best_label)

    def __len__(self) -> int:
        return len(self.best_label)

    def select(self, rows: NDArray[np.intp]) -> SoftTargets:
        """The chosen questions, in the order given."""
        lengths = np.diff(self.offsets)[rows]
        entries = ragged_positions(self.offsets[:-1][rows], lengths)
        label, score = self.label[entries], self.score[entries]
        return SoftTargets(self.num_answers, ragged_offsets(lengths), label, score, self.best_label[rows])

    def dense(self, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        """Soft targets (B, A) of the chosen questions."""
        lengths = np.diff(self.offsets)[rows]
        entries = ragged_positions(self.offsets[:-1][rows], lengths)
        targets = np.zeros((len(rows), self.num_answers), np.float32)
        targets[np.repeat(np.arange(len(rows)), lengths), self.label[entries]] = self.score[entries]
        return targets
