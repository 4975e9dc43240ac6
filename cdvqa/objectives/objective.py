"""What every objective is: a function of a few tensors, to a scalar and its named terms."""

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor, nn


class Loss(NamedTuple):
    """What is minimised, and the parts it is the sum of.

    Attributes:
        total: scalar.
        terms: scalars by name: `task`, and `entropy` for LMH.
    """

    total: Tensor
    terms: dict[str, Tensor]


class Objective(nn.Module, ABC):
    """A training objective. It never sees more than these tensors; evaluation ranks plain logits.

    `forward(logits, soft_target, prior=None, hidden=None, label=None)`:

    - logits (B, A), soft_target (B, A): the model's scores and the answers' soft scores;
    - prior (B, A): how often each answer is right under the question's type;
    - hidden (B, H): the pooled output before the classifier;
    - label (B,) int64: the answer of highest soft score, -1 where none is in the vocabulary.

    The input dtype is kept. Raises ValueError naming the tensor that is missing.
    """

    @abstractmethod
    def forward(
        self,
        logits: Tensor,
        soft_target: Tensor,
        prior: Tensor | None = None,
        hidden: Tensor | None = None,
        label: Tensor | None = None,
    ) -> Loss: ...

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

    def need(self, name: str, tensor: Tensor | None) -> Tensor:
        """Return `tensor`, or raise ValueError where this objective was not given it."""
        if tensor is None:
            raise ValueError(f"{type(self).__name__} needs `{name}`")
        return tensor
