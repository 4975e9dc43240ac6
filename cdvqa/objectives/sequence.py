"""The likelihood of answers that are said word by word."""

from torch import Tensor
from torch.nn import functional

PADDING = -100


def negative_log_likelihood(logits: Tensor, target: Tensor) -> Tensor:
    """−log p of each answer, (N,): the sum over its word pieces, not their mean, as the authors' mPLUG takes it.

    Args:
        logits: (N, L, V).
        target: (N, L) int64, −100 on padding.
    """
    pieces = functional.cross_entropy(logits.transpose(1, 2), target, ignore_index=PADDING, reduction="none")
    return pieces.sum(dim=1)
