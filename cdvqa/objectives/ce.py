"""Cross-entropy with soft targets."""

from torch import Tensor

from cdvqa.objectives.objective import Loss, Objective, negative_log_likelihood


class CE(Objective):
    """−(1/B) Σ_b Σ_a t log softmax(x), with t not normalised: what the authors train VisualBERT with."""

    def loss(self, logits: Tensor, soft_target: Tensor) -> Loss:
        loss = soft_cross_entropy(logits, soft_target)
        return Loss(loss, {"task": loss}, len(logits))

    def sequence(self, logits: Tensor, target: Tensor, weight: Tensor, prior: Tensor, questions: int) -> Loss:
        """(1/B) Σ_i w_i ℓ_i, ℓ_i being −log p of an answer."""
        loss = (weight * negative_log_likelihood(logits, target)).sum() / questions
        return Loss(loss, {"task": loss}, questions)


def soft_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """−(1/B) Σ_b Σ_a t log softmax(x) of logits and targets (B, A)."""
    return -(target * logits.log_softmax(dim=1)).sum() / len(logits)
