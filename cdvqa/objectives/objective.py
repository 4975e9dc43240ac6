"""The protocol of a training objective."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from cdvqa.data.dataset import View
from cdvqa.objectives.output import Output


class Loss(NamedTuple):
    """What is minimised, and the parts it is the sum of.

    Attributes:
        total: scalar.
        terms: scalars by name, logged as `train/loss/NAME`: `task`, and others such as `entropy` of LMH.
        count: number of questions that every term is a mean over.
        logged: further scalars to log, as `objective/NAME`.
    """

    total: Tensor
    terms: dict[str, Tensor]
    count: int  # type: ignore[assignment]
    logged: Mapping[str, Tensor] = {}


class Progress(NamedTuple):
    """How far the training is: optimiser steps done and in all, epochs done and in all (1 or more)."""

    step: int
    steps: int
    epoch: int
    epochs: int


class Objective(nn.Module, ABC):
    """A training objective: a function of a few tensors, to a scalar and its terms.

    A subclass defines `loss`, and lists in `needs` what it takes beside logits and soft targets:

    - prior (B, A): how often each answer is right under the question's type;
    - hidden (B, H): the pooled output before the classifier;
    - label (B,) int64: the answer of highest soft score, −1 where none is in the vocabulary;
    - question (B, Hq) and vision (B, Hv): what the backbone knows of either alone, detached;
    - counts (B, A): how often each answer occurs among the normalised human answers to the training questions of the
      question's type;
    - teacher: the `Output` of the finished run that `model.teacher` names, without gradient;
    - views: an `Output` for each of `views`, which costs a forward pass each;
    - progress: a `Progress`.

    It is found by a short name (`cdvqa.objectives.OBJECTIVES`) or by `package.module.Class`; its arguments are
    `model.objective_options`, and `hidden_size`, `num_answers`, `question_size` or `vision_size`, if it takes them,
    come from the backbone (1 for what it does not provide, which is refused if the objective then needs it). A complete
    example, `--model.objective focal.Focal`:

        class Focal(Objective):
            def __init__(self, gamma: float = 2.0) -> None:
                super().__init__()
                self.gamma = gamma

            def loss(self, logits, soft_target):
                error = (soft_target - logits.sigmoid()).abs() ** self.gamma
                bce = binary_cross_entropy_with_logits(logits, soft_target, reduction="none")
                loss = (error * bce).sum() / len(logits)
                return Loss(loss, {"task": loss}, count=len(logits))

    Attributes:
        needs: names of the tensors that `loss` takes; it gets these and no others. Where an option decides, the
            constructor sets it.
        views: other forms of each question, by name: functions from its text and a random generator, which is a
            function of seed, epoch and question id, to another text.
        batch_dependent: whether a term depends on the batch as a whole, as contrastive losses do. `loss` then gets the
            questions of all processes, and gradients cannot be accumulated. Random numbers for it come from
            `self.generator`, which is seeded by the run's seed and the step.
        in_network: whether its parameters are a part of the network at test: saved in the network file and counted.
            Otherwise they lie in `objective.safetensors` beside it.
        trains_question: whether `question` is not detached, so that the backbone is trained through it, as by an
            adversary.
        training_only: beginnings of the names of parameters that `scores` does not use: these lie beside the network
            even if the others are a part of it.
        first: where a step has two halves, the loss of the first, a function of the same inputs as `loss`. The
            objective's own parameters are stepped with its clipped gradient; then `loss` is formed, and its gradient
            added to that. Gradients cannot be accumulated then. None where a step has one loss.
        fresh_in_each_stage: whether a stage leaves aside the parameters that the stage before has trained.
        preset_fields: options that are fields of the presets, such as LMH's `trainable`, by the field's name.
        sequence_options: defaults of options that differ for a generative backbone.
    """

    needs: frozenset[str] = frozenset()
    views: ClassVar[Mapping[str, View]] = {}
    batch_dependent: ClassVar[bool] = False
    in_network: ClassVar[bool] = False
    trains_question: ClassVar[bool] = False
    training_only: tuple[str, ...] = ()
    first: Callable[..., Loss] | None = None
    fresh_in_each_stage: ClassVar[bool] = False
    generator: torch.Generator
    preset_fields: ClassVar[Mapping[str, str]] = {}
    sequence_options: ClassVar[Mapping[str, Any]] = {}

    @abstractmethod
    def loss(self, logits: Tensor, soft_target: Tensor, *args: Any, **kwargs: Any) -> Loss:
        """The loss of B questions, in the inputs' dtype; further arguments are those in `needs`, by name."""

    def forward(
        self,
        logits: Tensor,
        soft_target: Tensor,
        prior: Tensor | None = None,
        hidden: Tensor | None = None,
        label: Tensor | None = None,
        question: Tensor | None = None,
        vision: Tensor | None = None,
        counts: Tensor | None = None,
        teacher: Output | None = None,
        views: dict[str, Output] | None = None,
        progress: Progress | None = None,
    ) -> Loss:
        """Call `loss` with what the objective needs.

        Raises:
            ValueError: one of its inputs is missing; the message names it.
        """
        given = {
            "prior": prior, "hidden": hidden, "label": label, "question": question, "vision": vision,
            "counts": counts, "teacher": teacher, "views": views, "progress": progress,
        }  # fmt: skip
        for name in sorted(self.needs):
            if given[name] is None:
                raise ValueError(f"{type(self).__name__} needs `{name}`")
        return self.loss(logits, soft_target, **{name: given[name] for name in self.needs})

    def counted(self, label: Tensor) -> int:
        """Number of questions that the terms are a mean over, from the questions' labels (N,): all of them.

        It must agree with `Loss.count`. An optimiser step weights its batches by it, so that the step is the mean over
        all questions of the step, in however many batches and processes.
        """
        return len(label)

    def take_teacher(self, objective: "Callable[[], Objective]") -> None:
        """Called once before training where there is a teacher: `objective()` loads the objective that trained it.

        Raises:
            InputError: this objective cannot learn from a network that was trained so.
        """

    def ships(self, name: str) -> bool:
        """Whether a parameter of its own is a part of the network at test, by its name."""
        return self.in_network and not name.startswith(self.training_only)

    def shipped(self) -> list[nn.Parameter]:
        """Its parameters that are a part of the network at test."""
        return [parameter for name, parameter in self.named_parameters() if self.ships(name)]

    def head(self, inputs: int, answers: int) -> nn.Module | None:
        """What takes the place of the classifier's last Linear (`inputs` → `answers`); None leaves it.

        It is saved, counted and trained as a part of the classifier.
        """
        return None

    def scores(self, output: Output) -> Tensor:
        """What evaluation ranks, (B, A): the logits."""
        assert output.logits is not None, "a generative backbone says its answers"
        return output.logits

    def sequence(self, logits: Tensor, target: Tensor, weight: Tensor, prior: Tensor, questions: int) -> Loss:
        """The objective of a generative backbone, over the N answers that a batch's questions were given.

        Args:
            logits: scores of each next word piece, (N, L, V).
            target: the next word pieces, (N, L) int64, −100 on padding.
            weight: share of the question's human answers, (N,).
            prior: how often the answer is given to questions of the type, (N,).
            questions: B, what the sum is divided by.

        Raises:
            ValueError: this objective is defined over a vocabulary of answers alone.
        """
        raise ValueError(f"{type(self).__name__} is defined over a vocabulary of answers, not over word pieces")


class LabelledObjective(Objective):
    """An objective with one label per question: questions without a label (−1) do not count."""

    needs = frozenset({"prior", "label"})

    def counted(self, label: Tensor) -> int:
        return int((label >= 0).sum())


def labelled_only(label: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Keep the rows whose label (B,) is not −1: the labels first, then each of `tensors` (B, …)."""
    rows = label >= 0
    return label[rows], *(tensor[rows] for tensor in tensors)


def mean_or_zero(losses: Tensor) -> Tensor:
    """Mean of losses (N,); 0, still attached to the graph, where N is 0."""
    return losses.mean() if len(losses) else torch.sum(losses)


def negative_log_likelihood(logits: Tensor, target: Tensor) -> Tensor:
    """−log p of each answer, (N,): the sum over its word pieces, not their mean, as in the authors' mPLUG.

    Args:
        logits: (N, L, V).
        target: (N, L) int64, −100 on padding.
    """
    return functional.cross_entropy(logits.transpose(1, 2), target, reduction="none").sum(dim=1)
