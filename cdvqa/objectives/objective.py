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
    """A loss and its terms.

    Attributes:
        total: scalar to minimise, the sum of the terms.
        terms: scalars by name, logged as `train/loss/NAME`: `task`, and others such as `entropy` of LMH.
        count: number of questions that every term is a mean over.
        logged: further scalars to log, as `objective/NAME`.
    """

    total: Tensor
    terms: dict[str, Tensor]
    count: int  # type: ignore[assignment]
    logged: Mapping[str, Tensor] = {}


class Progress(NamedTuple):
    """How far training is: optimiser steps done and planned, epochs done and planned (1 or more)."""

    step: int
    steps: int
    epoch: int
    epochs: int


class Objective(nn.Module, ABC):
    """A training objective: a loss, and the tensors it is computed from.

    A subclass defines `loss`, and lists in `needs` what it takes beside logits and soft targets:

    - prior (B, A): how often each answer is right under the question's type;
    - hidden (B, H): the pooled output before the classifier;
    - label (B,) int64: the answer of highest soft score, −1 where none is in the vocabulary;
    - question (B, Hq) and vision (B, Hv): features of the question and of the image alone, detached;
    - counts (B, A): how often each answer occurs among the normalised human answers to the training questions of the
      question's type;
    - teacher: the `Output` of the finished run that `model.teacher` names, without gradient;
    - views: an `Output` for each of `views`, which costs a forward pass each;
    - progress: a `Progress`.

    It is found by a short name (`cdvqa.objectives.OBJECTIVES`) or by `package.module.Class`. Its arguments are
    `model.objective_options`; if it takes `hidden_size`, `num_answers`, `question_size` or `vision_size`, these come
    from the backbone. A size is 1 if the backbone does not provide the tensor, and an objective that needs the tensor
    is then refused. A complete example, `--model.objective focal.Focal`:

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
        needs: names of the tensors that `loss` takes; it gets these and no others. If they depend on an option, the
            constructor sets it.
        views: other forms of each question, by name. A view maps the question's text and a random generator, seeded by
            the run's seed, the epoch and the question id, to another text; an `AnsweredView` sees the training answers
            as well.
        batch_dependent: whether a term depends on the batch as a whole, as contrastive losses do. `loss` then gets the
            questions of all processes, and gradient accumulation is refused. It takes random numbers from
            `self.generator`, which is seeded by the run's seed and the step.
        in_network: whether its parameters are a part of the network at test: saved in the network file and counted.
            Otherwise they are saved beside it, in `objective.safetensors`.
        trains_question: whether the backbone is trained through `question`, as by an adversary; otherwise `question`
            is detached.
        training_only: prefixes of the names of parameters that `scores` does not use. These are saved beside the
            network even if the others are a part of it.
        first: where a step has two halves, the loss of the first, a function of the same inputs as `loss`. The
            objective's own parameters take a step along its clipped gradient; then `loss` is computed, and its
            gradient is added to that one. Gradient accumulation is refused. None where a step has one loss.
        fresh_in_each_stage: whether each stage starts with new parameters, not with those of the stage before.
        preset_fields: preset fields that are options of the objective, by option: `{"trainable": "lmh_trainable"}`
            of LMH.
        sequence_options: option defaults that differ for a generative backbone.
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

        It must agree with `Loss.count`. An optimiser step weights its batches by it, so that its gradient is that of
        the mean over all questions of the step, whatever the number of batches and processes.
        """
        return len(label)

    def take_teacher(self, objective: "Callable[[], Objective]") -> None:
        """Called once before training where there is a teacher: `objective()` loads the objective that trained it.

        Raises:
            InputError: this objective cannot learn from a teacher of that objective.
        """

    def ships(self, name: str) -> bool:
        """Whether a parameter of its own is a part of the network at test, by its name."""
        return self.in_network and not name.startswith(self.training_only)

    def shipped(self) -> list[nn.Parameter]:
        """Its parameters that are a part of the network at test."""
        return [parameter for name, parameter in self.named_parameters() if self.ships(name)]

    def head(self, inputs: int, answers: int) -> nn.Module | None:
        """A module (B, inputs) → (B, answers) in place of the classifier's last Linear; None keeps the Linear.

        It is saved, counted and trained as a part of the classifier.
        """
        return None

    def scores(self, output: Output) -> Tensor:
        """What evaluation ranks, (B, A): the logits."""
        assert output.logits is not None, "a generative backbone has no scores"
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
