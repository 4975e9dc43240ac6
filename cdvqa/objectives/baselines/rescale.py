"""Loss re-scaling (Guo et al., 2022)."""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from cdvqa.objectives.ce import soft_cross_entropy
from cdvqa.objectives.objective import Loss, Objective

LARGEST = 100.0  # weight of an answer
ANNOTATORS = 10  # human answers to a question


class Rescale(Objective):
    """A loss in which the answers that are rare under a question's type weigh more.

    Of the n_a answers a of the type, those with n_a ≥ `min_count` are kept. With N their sum,

        w_a = min(softplus((N − n_a) / n_a), 100) of a kept answer,   w_a = 1 + ln 2 of any other,
        bce: −(1/B) Σ_b Σ_a (w t log σ(x) + (1 − t) log σ(−x)),
        ce:  −(1/B) Σ_b Σ_a (t/10) w log softmax(x).

    So the only kept answer of a type, with ln 2, weighs less than one that was never given.

    Source: Guo et al. (2022), "Loss Re-scaling VQA", and its code (`utils/losses.py`), whose comment gives weight 1 to
    answers that are not kept. Their code drops the vocabulary's first answer from the counts; this does not.

    Args:
        form: bce or ce.
        min_count: how many human answers under the type an answer needs to be kept.
    """

    needs = frozenset({"counts"})

    def __init__(self, form: Literal["bce", "ce"] = "bce", min_count: int = 10) -> None:
        super().__init__()
        self.form, self.min_count = form, min_count

    def weights(self, counts: Tensor) -> Tensor:
        """w (B, A) from counts (B, A)."""
        kept = counts >= self.min_count
        total = (counts * kept).sum(dim=1, keepdim=True)
        scarcity = (total - counts) / counts.clamp(min=1)
        return torch.where(kept, softplus(scarcity).clamp(max=LARGEST), 1 + math.log(2))

    def loss(self, logits: Tensor, soft_target: Tensor, counts: Tensor) -> Loss:
        weights = self.weights(counts)
        if self.form == "ce":
            loss = soft_cross_entropy(logits, soft_target * weights / ANNOTATORS)
        else:
            summed = binary_cross_entropy_with_logits(logits, soft_target, pos_weight=weights, reduction="sum")
            loss = summed / len(logits)
        return Loss(loss, {"task": loss}, len(logits))
