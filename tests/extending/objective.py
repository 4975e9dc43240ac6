"""An objective of logits and targets alone: questions that are answered well weigh less."""

from torch.nn.functional import binary_cross_entropy_with_logits

from cdvqa.objectives import Loss, Objective


class Focal(Objective):
    """Binary cross-entropy, each answer weighted by |t − σ(x)|^γ (Lin et al., 2017)."""

    def __init__(self, gamma: float = 2.0) -> None:
        super().__init__()
        self.gamma = gamma

    def loss(self, logits, soft_target) -> Loss:
        weight = (soft_target - logits.sigmoid()).abs() ** self.gamma
        bce = binary_cross_entropy_with_logits(logits, soft_target, reduction="none")
        loss = (weight * bce).sum() / len(logits)
        return Loss(loss, {"task": loss}, count=len(logits))
