"""LPF: questions that the prior already answers weigh less."""

from torch import Tensor

from cdvqa.objectives.labelled import labelled_only, mean_or_zero
from cdvqa.objectives.objective import Loss, Objective
from cdvqa.objectives.sequence import negative_log_likelihood

FLOOR = 1e-7  # the authors' clamp of both probabilities


class LPF(Objective):
    """Cross-entropy weighted by (1 − p_b[label])^γ (Eq. 8).

    The prior is a constant here. The original LPF (Liang et al., 2021) takes p_b from a learned question-only head.
    """

    def __init__(self, gamma: float = 5.0) -> None:
        super().__init__()
        self.gamma = gamma

    def forward(
        self,
        logits: Tensor,
        soft_target: Tensor,
        prior: Tensor | None = None,
        hidden: Tensor | None = None,
        label: Tensor | None = None,
    ) -> Loss:
        label, logits, prior = labelled_only(self.need("label", label), logits, self.need("prior", prior))
        probability = logits.softmax(dim=1).gather(1, label[:, None])[:, 0].clamp(min=FLOOR)
        bias = prior.gather(1, label[:, None])[:, 0].clamp(min=FLOOR)
        loss = mean_or_zero((1 - bias) ** self.gamma * -probability.log())
        return Loss(loss, {"task": loss})

    def sequence(self, logits: Tensor, target: Tensor, weight: Tensor, prior: Tensor, questions: int) -> Loss:
        """(1/B) Σ_i w_i (1 − β_i)^γ ℓ_i, β_i being an answer's prior; the authors' mPLUG has γ = 1."""
        loss = (weight * (1 - prior) ** self.gamma * negative_log_likelihood(logits, target)).sum() / questions
        return Loss(loss, {"task": loss})
