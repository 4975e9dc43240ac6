"""Binary cross-entropy: the objective that does not debias."""

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from cdvqa.objectives.objective import Loss, Objective


class BCE(Objective):
    """Binary cross-entropy with soft targets (Eq. 4), summed over answers and averaged over the batch."""

    def loss(self, logits: Tensor, soft_target: Tensor) -> Loss:
        loss = binary_cross_entropy(logits, soft_target)
        return Loss(loss, {"task": loss}, len(logits))


def binary_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy of σ(logits) with a target, both (B, A): summed over answers, averaged over the batch."""
    return binary_cross_entropy_with_logits(logits, target, reduction="sum") / len(logits)
