"""RUBi, as the paper states it."""

from torch import Tensor
from torch.nn.functional import cross_entropy

from cdvqa.objectives.objective import LabelledObjective, Loss, labelled_only, mean_or_zero


class RUBi(LabelledObjective):
    """Cross-entropy of x ⊙ σ(p_b) with one label (Eq. 7).

    The prior's own sigmoid masks the logits. The original RUBi (Cadene et al., 2019) learns a question-only branch
    for this mask instead; neither the paper nor its code does.
    """

    def loss(self, logits: Tensor, soft_target: Tensor, prior: Tensor, label: Tensor) -> Loss:
        label, logits, prior = labelled_only(label, logits, prior)
        loss = mean_or_zero(cross_entropy(logits * prior.sigmoid(), label, reduction="none"))
        return Loss(loss, {"task": loss}, len(label))
