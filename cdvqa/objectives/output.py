"""The output of a backbone, which objectives and evaluation read."""

from typing import NamedTuple

from torch import Tensor


class SequenceOutput(NamedTuple):
    """Output of a generative backbone for the N answers given to the B questions of a batch.

    Attributes:
        logits: scores of the next word piece, (N, L − 1, V).
        target: the next word piece, (N, L − 1) int64, −100 on padding.
        weight: share of the question's human answers, (N,).
        prior: how often the answer is given to questions of the type, (N,).
        questions: B.
    """

    logits: Tensor
    target: Tensor
    weight: Tensor
    prior: Tensor
    questions: int


class Output(NamedTuple):
    """What a backbone computes from a batch.

    Attributes:
        logits: scores of the answers, (B, A); None for a generative backbone.
        hidden: pooled output before the classifier, (B, H); None for a generative backbone.
        sequence: token-level parts of a generative backbone; None for a classifier.
        question: features of the question alone, (B, Hq), detached; None unless the objective needs it.
        vision: mean of the region features as the backbone embeds them, (B, Hv), detached; None likewise.
    """

    logits: Tensor | None
    hidden: Tensor | None
    sequence: SequenceOutput | None = None
    question: Tensor | None = None
    vision: Tensor | None = None
