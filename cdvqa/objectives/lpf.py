"""LPF: questions that the prior already answers weigh less."""

from types import MappingProxyType

from torch import Tensor

from cdvqa.objectives.objective import LabelledObjective, Loss, labelled_only, mean_or_zero, negative_log_likelihood

FLOOR = 1e-7  # the authors' clamp of both probabilities


class LPF(LabelledObjective):
    """Cross-entropy weighted by (1 − p_b[label])^γ (Eq. 8).

    The prior is a constant here. The original LPF (Liang et al., 2021) takes p_b from a learned question-only head.
    """

    sequence_options = MappingProxyType({"gamma": 1.0})  # the authors' mPLUG

    def __init__(self, gamma: float = 5.0) -> None:
        super().__init__()
        self.gamma = gamma

    def loss(self, logits: Tensor, soft_target: Tensor, prior: Tensor, label: Tensor) -> Loss:
        label, logits, prior = labelled_only(label, logits, prior)
        probability = logits.softmax(dim=1).gather(1, label[:, None])[:, 0].clamp(min=FLOOR)
        bias = prior.gather(1, label[:, None])[:, 0].clamp(min=FLOOR)
        loss = mean_or_zero((1 - bias) ** self.gamma * -probability.log())
        return Loss(loss, {"task": loss}, len(label))

    def sequence(self, logits: Tensor, target: Tensor, weight: Tensor, prior: Tensor, questions: int) -> Loss:
        """(1/B) Σ_i w_i (1 − β_i)^γ ℓ_i, β_i being an answer's prior."""
        loss = (weight * (1 - prior) ** self.gamma * negative_log_likelihood(logits, target)).sum() / questions
        return Loss(loss, {"task": loss}, questions)
