"""What a stage asks of a vision-language model."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from cdvqa.data.batch import VQABatch
from cdvqa.data.visual.source import ImageFormat
from cdvqa.objectives import Output
from cdvqa.sparsity.patterns import Structure


@dataclass(frozen=True)
class LoadReport:
    """How many parameters a checkpoint filled, and which names did not fit.

    Attributes:
        source: where the weights came from.
        matched: number of parameters (elements) that the checkpoint filled.
        total: number of parameters of the pre-trained part of the model.
        missing: names the model has and the checkpoint lacks.
        unexpected: names the checkpoint has and the model lacks.
    """

    source: str
    matched: int
    total: int
    missing: list[str]
    unexpected: list[str]

    @property
    def share(self) -> float:
        """Matched parameters as a share of all."""
        return self.matched / self.total

    def __str__(self) -> str:
        return (
            f"{self.source}: {self.share:.1%} of {self.total:,} parameters matched, "
            f"{len(self.missing)} names missing, {len(self.unexpected)} unexpected"
        )


class Backbone(nn.Module, ABC):
    """A vision-language model with an answer head.

    Attributes:
        name: what run folders call it.
        hidden_size: H, width of the pooled output.
        num_answers: A, number of answers.
        classifier: what stage 2 trains beside the masks, the answer head; never pruned.
        provides: width of what it can tell of the question or the image alone, under `question` and `vision`.
        asked: which of these `forward` fills in; the stage sets it to what the objective needs.
        trains_question: whether gradients flow back through `question`; the stage sets it with `asked`.
        generates: whether it says its answers word by word, and learns from `batch.sequences`.
        image_format: the pictures it takes; None where it takes region features.
        counting_note: what a reader of published parameter counts must know; `cdvqa info` prints it.
        answers: the vocabulary's strings in index order; a stage fills it in before anything is loaded or answered.
        tokenizer: of the questions; filled in with `answers`.
    """

    name: str
    hidden_size: int
    num_answers: int
    classifier: nn.Module
    generates: ClassVar[bool] = False
    image_format: ImageFormat | None = None
    counting_note: ClassVar[str] = ""
    answers: list[str] | None = None
    tokenizer: Tokenizer | None = None
    asked: frozenset[str] = frozenset()
    trains_question: bool = False

    @property
    def provides(self) -> dict[str, int]:
        return {}

    def question_features(self, features: Tensor) -> Tensor:
        """`question` of the output from the features that it is computed of: detached unless it is to be trained."""
        return features if self.trains_question else features.detach()

    @abstractmethod
    def forward(self, batch: VQABatch) -> Output:
        """Score every answer for every question of the batch."""

    @abstractmethod
    def answer(self, batch: VQABatch) -> list[str]:
        """The answer string of each question."""

    def matrices(self) -> dict[str, list[str]]:
        """Names of the weight matrices that can be masked, by modality, in the order that decides global ties.

        Without any, as here, the backbone is for stage 1 alone.
        """
        return {}

    def structures(self) -> list[Structure]:
        """Its attention heads and feed-forward neurons, for the pattern `structured`; here none."""
        return []

    def parameter_groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """Groups for the optimiser of all that is trained."""
        return [{"params": [p for p in self.parameters() if p.requires_grad], "lr": lr, "weight_decay": weight_decay}]

    def authors_protocol(self, stage: int) -> dict[str, Any]:
        """Fields of the `authors` preset in which their code for this backbone departs from that for LXMERT."""
        return {}

    def authors_also_train(self) -> list[str]:
        """Parameters that their stage 2 for this backbone trains beside the masks and the classifier."""
        return []

    def counts(self) -> dict[str, int]:
        """Number of weights that can be masked, by modality; asked before any mask is attached."""
        return {m: sum(self.get_parameter(name).numel() for name in names) for m, names in self.matrices().items()}

    def dead(self) -> list[str]:
        """Those of `matrices` that cannot reach the answer, here none; they are frozen and never get a gradient."""
        return []

    @property
    def encoder(self) -> PreTrainedModel | None:
        """The part of it that is a model of transformers, and of which the classifier reads the pooled output."""
        return None

    def unused(self) -> list[str]:
        """What the names of parameters begin with that no answer needs; here none, and exported networks have none."""
        return []

    def skip_unused(self) -> None:
        """Compute only what reaches the answer, in place and for good: the same answers, no training. Here all does."""

    def layers(self) -> Iterable[nn.Module]:
        """The layers whose activations make up most of a training step's memory, here none."""
        return []

    def checkpoint_gradients(self) -> None:
        """Keep only what enters each of `layers`; backward runs them again, dropout included."""
        for layer in self.layers():
            layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)  # type: ignore[method-assign]

    def load_pretrained(self) -> LoadReport | None:
        """Fill in the published weights; None where the model starts from scratch, as here.

        Raises:
            InputError: weights absent, unreadable, of another shape, or matching less than 95 % of the parameters.
        """
        return None

    def from_scratch(self) -> dict[str, Any]:
        """Arguments that make a model of the same sizes without pre-trained files, in place of its own; here none."""
        return {}

    @property
    @abstractmethod
    def description(self) -> dict[str, object]:
        """What two runs must share to exchange weights: JSON-able."""
