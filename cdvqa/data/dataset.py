"""Questions with their images as whole batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cdvqa.data.answers.prior import QuestionTypePrior
from cdvqa.data.answers.sequences import AnswerTexts
from cdvqa.data.answers.targets import SoftTargets
from cdvqa.data.batch import VQABatch, Words
from cdvqa.data.questions.annotations import Categories
from cdvqa.data.questions.official import Questions
from cdvqa.data.questions.text import TokenisedQuestions
from cdvqa.data.visual.source import VisualSource


@dataclass(frozen=True)
class Answered:
    """What is known of N training questions beside their text.

    Attributes:
        question_type, answer_type: of each question.
        targets: their soft targets and labels.
    """

    question_type: Categories
    answer_type: Categories
    targets: SoftTargets


# From a question's row among the training questions, its text and a random generator to the view's text.
ViewOfRow = Callable[[int, str, np.random.Generator], str]
Tokenise = Callable[[NDArray[np.int64], list[str]], TokenisedQuestions]  # from question ids and texts


class AnsweredView(ABC):
    """A view that depends on the types and answers of the training questions."""

    @abstractmethod
    def over(self, answered: Answered) -> ViewOfRow:
        """The function that writes the view, given what is known of the training questions."""


View = Callable[[str, np.random.Generator], str] | AnsweredView


@dataclass(frozen=True)
class Views:
    """Other forms of N questions, written and tokenised when a batch is read.

    The text is a function of seed, epoch and question id, so that a resumed run repeats it.

    Attributes:
        functions: what writes each view, by the view's name.
        text: the questions.
        tokenise: from question ids and texts to word pieces.
        seed: of the run.
    """

    functions: Mapping[str, ViewOfRow]
    text: Sequence[str]
    tokenise: Tokenise
    seed: int
    _lock: Lock = field(default_factory=Lock)  # the tokeniser is shared by all reading threads

    @classmethod
    def of(
        cls,
        views: Mapping[str, View],
        text: Sequence[str],
        answered: Answered,
        tokenise: Tokenise,
        seed: int,
    ) -> Views:
        """The views of `text`; those that depend on the answers get `answered`."""

        def function(view: View) -> ViewOfRow:
            if isinstance(view, AnsweredView):
                return view.over(answered)
            return lambda row, question, random: view(question, random)

        return cls({name: function(view) for name, view in views.items()}, text, tokenise, seed)

    def batch(self, rows: NDArray[np.intp], question_id: NDArray[np.int64], epoch: int) -> dict[str, Words]:
        """The views of the questions in these rows (B,)."""
        views = {}
        for number, (name, write) in enumerate(self.functions.items()):
            draws = (np.random.default_rng((self.seed, epoch, int(i), number)) for i in question_id)
            text = [write(int(row), self.text[row], random) for row, random in zip(rows, draws, strict=True)]
            with self._lock:
                pieces = self.tokenise(question_id, text)
            ids, mask = pieces.batch(np.arange(len(rows)))
            views[name] = Words(torch.from_numpy(ids), None if mask is None else torch.from_numpy(mask))
        return views


class QuestionDataset:
    """N questions with their images, and nothing about their answers.

    Args:
        question_id: (N,).
        image_id: (N,).
        tokens: their word pieces.
        visual: their images, as region features or pixels.

    Raises:
        InputError: an image is missing.
    """

    def __init__(
        self,
        question_id: NDArray[np.int64],
        image_id: NDArray[np.int64],
        tokens: TokenisedQuestions,
        visual: VisualSource,
    ) -> None:
        visual.check_images(image_id, question_id)
        self.question_id = question_id
        self.image_id = image_id
        self.tokens = tokens
        self.visual = visual

    def __len__(self) -> int:
        return len(self.question_id)

    def label(self, rows: NDArray[np.intp], epoch: int) -> NDArray[np.int64]:
        """Labels (B,) of the questions in these rows, for the count of a step's labelled questions.

        Questions without answers have no label, but all of them count: 0 stands for any label.
        """
        return np.zeros(len(rows), np.int64)

    def batch(self, rows: NDArray[np.intp], epoch: int = 0, out: Tensor | None = None) -> VQABatch:
        """The questions in these rows (B,).

        Args:
            rows: positions in the data set.
            epoch: the epoch they are for; it matters where something is drawn at random.
            out: (B, *visual.image_shape) of type `visual.dtype`, filled and used as the batch's largest tensor.

        Raises:
            InputError: features are not finite, or a file cannot be read.
        """
        question_id = self.question_id[rows]
        input_ids, attention_mask = self.tokens.batch(rows)
        into = None if out is None else out.numpy()
        shown = self.visual.fields(self.image_id[rows], question_id, epoch, into)
        fields: dict[str, Any] = {
            name: out if array is into else torch.from_numpy(array) for name, array in shown.items()
        }
        return VQABatch(
            question_id=torch.from_numpy(question_id),
            input_ids=torch.from_numpy(input_ids),
            attention_mask=None if attention_mask is None else torch.from_numpy(attention_mask),
            **fields,
        )


class VQADataset(QuestionDataset):
    """N questions with their images and answers.

    Args:
        questions: the questions, with their annotations.
        tokens: their word pieces.
        targets: their soft targets.
        prior: the answer prior of the training questions.
        question_types: index space of `batch.question_type`.
        answer_types: index space of `batch.answer_type`.
        visual: their images, as region features or pixels.
        with_answers: put the raw human answers into each batch (evaluation).
        random_label_seed: where given, a question without an in-vocabulary answer gets a uniformly random label,
            a new one in each epoch (the authors' training). It is a function of seed, epoch and the question's row, so
            that a resumed run repeats it. Otherwise its label is −1.
        counts: (types, A), how often each answer occurs in training, by type; where given, batches hold its rows.
        views: other forms of the questions; where given, batches hold them.

    Raises:
        InputError: an image is missing.
    """

    def __init__(
        self,
        questions: Questions,
        tokens: TokenisedQuestions,
        targets: SoftTargets,
        prior: QuestionTypePrior,
        question_types: Sequence[str],
        answer_types: Sequence[str],
        visual: VisualSource,
        with_answers: bool = False,
        random_label_seed: int | None = None,
        counts: NDArray[np.float32] | None = None,
        views: Views | None = None,
    ) -> None:
        super().__init__(questions.question_id, questions.image_id, tokens, visual)
        annotations = questions.annotations
        self.targets = targets
        self.prior = torch.from_numpy(prior.rows(question_types))
        self.question_type = torch.from_numpy(annotations.question_type.codes_in(question_types))
        self.answer_type = torch.from_numpy(annotations.answer_type.codes_in(answer_types))
        self.answers = annotations.answers if with_answers else None
        self.random_label_seed = random_label_seed
        self.counts = None if counts is None else torch.from_numpy(counts)
        self.views = views

    def batch(self, rows: NDArray[np.intp], epoch: int = 0, out: Tensor | None = None) -> VQABatch:
        """The questions in these rows (B,); see `QuestionDataset.batch`."""
        question_type = self.question_type[rows]
        return replace(
            super().batch(rows, epoch, out),
            soft_target=torch.from_numpy(self.targets.dense(rows)),
            label=torch.from_numpy(self.label(rows, epoch)),
            prior=self.prior[question_type],
            question_type=question_type,
            answer_type=self.answer_type[rows],
            answers=None if self.answers is None else [self.answers[row] for row in rows],
            counts=None if self.counts is None else self.counts[question_type],
            views=None if self.views is None else self.views.batch(rows, self.question_id[rows], epoch),
        )

    def label(self, rows: NDArray[np.intp], epoch: int) -> NDArray[np.int64]:
        """Labels (B,) of the questions in these rows; see `VQABatch.label`."""
        label = self.targets.best_label[rows]
        if self.random_label_seed is not None:
            for index in np.flatnonzero(label < 0):
                draw = np.random.default_rng((self.random_label_seed, epoch, rows[index]))
                label[index] = draw.integers(self.targets.num_answers)
        return label


class GenerativeDataset(QuestionDataset):
    """N questions with their images and the answers that a generative backbone is trained to generate.

    Args:
        questions: the questions.
        tokens: their word pieces.
        answers: their human answers.
        visual: their images, as region features or pixels.

    Raises:
        InputError: an image is missing.
    """

    def __init__(
        self,
        questions: Questions,
        tokens: TokenisedQuestions,
        answers: AnswerTexts,
        visual: VisualSource,
    ) -> None:
        super().__init__(questions.question_id, questions.image_id, tokens, visual)
        self.answers = answers

    def batch(self, rows: NDArray[np.intp], epoch: int = 0, out: Tensor | None = None) -> VQABatch:
        """The questions in these rows (B,); see `QuestionDataset.batch`."""
        return replace(super().batch(rows, epoch, out), sequences=self.answers.batch(rows))
