"""Gradient reversal: an adversary that answers from the question alone."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.autograd import Function

from cdvqa.objectives.bce import binary_cross_entropy
from cdvqa.objectives.objective import Loss, Objective, Progress


class GRL(Objective):
    """BCE, and a question-only adversary whose gradient reaches the question encoder reversed.

    The adversary z = W₂ ReLU(W₁ q) is trained on weight · BCE(z, t). The encoder behind q gets the gradient of that
    term times λ ≤ 0, which is 0 before step `start`, and then falls linearly to −1 over `ramp` steps.

    The authors take two optimiser steps a batch, the second one for the adversary and the question encoder; here both
    terms share one step.

    Source: Ramakrishnan et al. (2018), Grand and Belinkov (2019), and the code of the latter. Their settings: weight
    0.005, λ = −1 from the start.

    Args:
        question_size: Hq, width of `question`.
        num_answers: A.
        weight: weight of the adversary's loss.
        width: of the adversary's hidden layer.
        start: optimiser steps before the reversal begins.
        ramp: optimiser steps in which λ falls from 0 to −1; 0: at once.
    """

    needs = frozenset({"question", "progress"})
    trains_question = True

    def __init__(
        self,
        question_size: int,
        num_answers: int,
        weight: float = 0.005,
        width: int = 512,
        start: int = 0,
        ramp: int = 0,
    ) -> None:
        super().__init__()
        self.weight, self.start, self.ramp = weight, start, ramp
        self.adversary = nn.Sequential(nn.Linear(question_size, width), nn.ReLU(), nn.Linear(width, num_answers))

    def loss(self, logits: Tensor, soft_target: Tensor, question: Tensor, progress: Progress) -> Loss:
        factor = self.reversal(progress.step + 1)
        task = binary_cross_entropy(logits, soft_target)
        guess = self.adversary(reverse(question, factor))
        adversary = self.weight * binary_cross_entropy(guess, soft_target)
        return Loss(task + adversary, {"task": task, "adversary": adversary}, len(logits))

    def reversal(self, step: int) -> float:
        """λ in optimiser step `step`, counted from 1."""
        if step < self.start:
            return 0.0
        return -min((step - self.start) / self.ramp, 1.0) if self.ramp else -1.0


class Reversed(Function):
    """Identity of the features; their gradient is multiplied by a factor."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return features.view_as(features)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.factor, None


reverse: Callable[[Tensor, float], Tensor] = Reversed.apply
