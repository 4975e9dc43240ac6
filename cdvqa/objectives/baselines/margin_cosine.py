"""Cosines with a margin for each answer: AdaVQA (Guo et al., 2021), later MMDB."""

import math

import torch
from torch import Tensor, nn

from cdvqa.objectives.ce import soft_cross_entropy
from cdvqa.objectives.heads import CosineHead
from cdvqa.objectives.objective import Loss, Objective


class MarginCosine(Objective):
    """Cross-entropy of scaled cosines, in which an answer that is rare under the question's type has a larger margin.

        L = −(1/B) Σ_b Σ_a t log softmax(s (cos θ − (1 − m))),

    with m from `frequency_margins`. The cosines are those of a `CosineHead` in place of the classifier's last
    Linear; evaluation ranks them without margins.

    Source: Guo et al. (2021), "AdaVQA: Overcoming Language Priors with Adapted Margin Cosine Loss", and its code
    (`utils/losses.py`, `tools/compute_softscore.py`), which drops the vocabulary's first answer from the counts; this
    does not.

    Args:
        scale: s.
        min_count: how many human answers under the type an answer needs for an m above 0.
        entropy_limit: in bits; see `frequency_margins`.
    """

    needs = frozenset({"counts"})

    def __init__(self, scale: float = 32.0, min_count: int = 50, entropy_limit: float = 4.5) -> None:
        super().__init__()
        self.scale, self.min_count, self.entropy_limit = scale, min_count, entropy_limit

    def head(self, inputs: int, answers: int) -> nn.Module:
        return CosineHead(inputs, answers)

    def loss(self, logits: Tensor, soft_target: Tensor, counts: Tensor) -> Loss:
        margins = frequency_margins(counts, self.min_count, self.entropy_limit)
        loss = soft_cross_entropy(self.scale * (logits - (1 - margins)), soft_target)
        return Loss(loss, {"task": loss}, len(logits))


def frequency_margins(counts: Tensor, min_count: int, entropy_limit: float) -> Tensor:
    """m (B, A): the share of each answer among those given at least `min_count` times under the question's type.

    m is 0 for the other answers, and for all answers of a type whose shares have an entropy of `entropy_limit` bits
    or more: the margins of such a type are equal, and softmax ignores them.

    Args:
        counts: how often each answer was given to questions of the type, (B, A).
        min_count: least number of an answer that has a share.
        entropy_limit: in bits.
    """
    kept = counts * (counts >= min_count)
    shares = kept / kept.sum(dim=1, keepdim=True).clamp(min=1)
    entropy: Tensor = torch.special.entr(shares).sum(dim=1, keepdim=True) / math.log(2)
    return shares * (entropy < entropy_limit)
