"""Thresholds that give exactly the requested sparsity, however many scores are tied.

Entries are ranked in ascending (score, |weight|, index) and the first ⌊s·n + ½⌋ become zeros (`exact`). A sort is never
needed: the last zero alone, the entry at that rank, decides every entry. Its score is the threshold; its |weight| and
index decide among the entries that share its score. `strict` is the authors' rule, score > k-th smallest score, which
makes zeros of everything tied with the threshold; `strict_bf16`, that of their mPLUG, rounds the threshold to bfloat16
at each reset.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cdvqa.errors import InputError
from cdvqa.presets import TieBreak
from cdvqa.sparsity.selection.kth import blocks, last_zero, sizes_like


@dataclass(frozen=True)
class Rule:
    """Which entries of one matrix are kept: those that rank above the last zero."""

    threshold: float
    """Score of the last zero (φ); -inf where nothing is pruned."""
    tie_weight: float = math.inf
    """|weight| of the last zero; inf prunes every entry tied with the threshold."""
    tie_index: int = -1
    """Position of the last zero in the flattened matrix; -1 before its first entry, n beyond its last (`global`)."""

    def mask(self, scores: Tensor, weight: Tensor | None = None) -> Tensor:
        """Bool mask of `scores` (True = kept); without `weight`, ties go by position alone."""
        threshold, tie_weight = (scores.new_tensor(value) for value in (self.threshold, self.tie_weight))
        return live_mask(scores, weight, threshold, tie_weight, torch.tensor(self.tie_index, device=scores.device))


@dataclass(frozen=True)
class Selection:
    """A threshold, the masks it gives now, and the rules that decide ties while the scores move on."""

    threshold: float
    mask: Tensor | list[Tensor]
    """Bool, True = kept; a list, one per matrix, from `select_global_threshold`."""
    rules: list[Rule] = field(repr=False)
    """One rule per matrix; together with live scores and weights it gives the mask until the next selection."""


def live_mask(
    scores: Tensor, weight: Tensor | None, threshold: Tensor, tie_weight: Tensor, tie_index: Tensor
) -> Tensor:
    """Kept entries: score > threshold, or at the threshold and above the last zero by (|weight|, index).

    All but `scores` and `weight` are scalars on the scores' device, so that a GPU needs no host round trip.
    """
    if scores.device.type == "cpu" and not torch.compiler.is_compiling():
        return _mask_by_block(scores, weight, Rule(float(threshold), float(tie_weight), int(tie_index)))
    shape, sizes = scores.shape, scores.new_zeros(()) if weight is None else weight.to(scores.dtype)
    return scores > levels(shape, sizes, threshold, tie_weight, tie_index)


def levels(shape: torch.Size, weight: Tensor, threshold: Tensor, tie_weight: Tensor, tie_index: Tensor) -> Tensor:
    """The score that each entry must exceed to be kept: φ, or the number just below φ for a tie that is kept."""
    position = torch.arange(shape.numel(), device=threshold.device).reshape(shape)
    below = torch.nextafter(threshold, torch.full_like(threshold, -math.inf))
    return torch.where(outranks(weight, position, tie_weight, tie_index), below, threshold)


def outranks(weight: Tensor, position: Tensor, tie_weight: Tensor | float, tie_index: Tensor | int) -> Tensor:
    """Which entries, tied with the threshold, are kept: above the last zero by (|weight|, position)."""
    size = weight.abs()
    return (size > tie_weight) | ((size == tie_weight) & (position > tie_index))


def _mask_by_block(scores: Tensor, weight: Tensor | None, rule: Rule) -> Tensor:
    """`live_mask` on the CPU, block by block."""
    flat = scores.detach().reshape(-1)
    weights = flat.new_zeros(1).expand(len(flat)) if weight is None else weight.detach().reshape(-1)
    kept = np.empty(len(flat), np.bool_)
    for _, start, values in blocks([flat]):
        mask = np.greater(values, rule.threshold, out=kept[start : start + len(values)])
        if rule.tie_weight < math.inf and (tied := values == rule.threshold).any():
            sizes = sizes_like(values, weights, start)
            # Up to the position of the last zero a tie must be larger to be kept; beyond it, as large will do.
            cut = min(max(rule.tie_index + 1 - start, 0), len(values))
            tied[:cut] &= sizes[:cut] > rule.tie_weight
            tied[cut:] &= sizes[cut:] >= rule.tie_weight
            mask |= tied
    return torch.from_numpy(kept).reshape(scores.shape)


def count_zeros(sparsity: float, weights: int, tie_break: TieBreak = "exact", reset: bool = False) -> int:
    """How many of `weights` entries become zeros at the share `sparsity`.

    `exact`: ⌊s·n + ½⌋ with s the decimal number as written (0.29 of 50 is 14.5, hence 15, though its binary
    product falls short). `strict`: the authors' floating-point ⌊s·n⌋, at a reset max(1, ⌊s·n⌋) unless s = 0.

    Raises:
        InputError: a sparsity outside 0 to 1.
    """
    if not 0 <= sparsity <= 1:
        raise InputError(f"sparsity is {sparsity:g}; a share of zeros lies between 0 and 1")
    if tie_break == "exact":
        return math.floor(Fraction(repr(float(sparsity))) * weights + Fraction(1, 2))
    at_least = 1 if reset and sparsity > 0 and weights > 0 else 0
    return max(at_least, math.floor(sparsity * weights))


class Ranking(NamedTuple):
    """Matrices whose entries are ranked together, and how many of the lowest become zeros."""

    scores: Sequence[Tensor]
    zeros: int
    weights: Sequence[Tensor] | None = None
    """Rank tied scores by |weight|; without them, ties go by position alone."""
    tie_break: TieBreak = "exact"


def select_each(rankings: Sequence[Ranking]) -> list[list[Rule]]:
    """For each ranking one rule per matrix; together they make zeros of its lowest entries. One GPU transfer for all.

    Entries are ranked in ascending (score, |weight|, index), the index being (matrix, position).

    Raises:
        InputError: scores that are NaN, or neither float32 nor float64.
    """
    found = [_last_zero(ranking) for ranking in rankings]
    values = iter(torch.stack([value for value, _ in found]).tolist() if found else [])
    places = iter(torch.cat([place for _, place in found]).tolist() if found else [])
    rules = []
    for ranking, (threshold, tie_weight) in zip(rankings, values, strict=True):
        if math.isnan(threshold):
            raise InputError(
                "some scores are NaN, so training has diverged; lower the learning rate or the clipping norm"
            )
        theirs = [Rule(threshold, tie_weight, next(places)) for _ in ranking.scores]
        if ranking.zeros == 0 or ranking.tie_break != "exact":
            theirs = [Rule(threshold if ranking.zeros else -math.inf)] * len(theirs)
        rules.append(theirs)
    return rules


def _last_zero(ranking: Ranking) -> tuple[Tensor, Tensor]:
    """`last_zero` of a ranking; of a ranking without zeros that of one zero, so that a NaN score is still found."""
    scores = [part.detach().reshape(-1) for part in ranking.scores]
    if any(part.dtype not in (torch.float32, torch.float64) for part in scores):
        raise InputError(f"thresholds are selected from float32 scores, not {scores[0].dtype}; keep the masks in fp32")
    if not any(map(len, scores)):
        return scores[0].new_full((2,), -math.inf), torch.full((len(scores),), -1, device=scores[0].device)
    if ranking.weights is None:
        weights = [part.new_zeros(1).expand(len(part)) for part in scores]
    else:
        weights = [part.detach().reshape(-1) for part in ranking.weights]
    return last_zero(scores, weights, max(ranking.zeros, 1))


def magnitude_scores(
    weight: Tensor, sparsity: float, alpha: float = 2.0, threshold: float = 0.01, tie_break: TieBreak = "exact"
) -> Tensor:
    """Initial scores (fp32, the weight's shape): 0 for the smallest |weight|, α·φ for the others (paper Eq. 3).

    `strict` takes k = ⌊s·n⌋ and keeps |weight| > the k-th smallest, so tied entries all start at 0.

    Args:
        weight: W, of any shape and floating type.
        sparsity: share of zeros s, 0 to 1.
        alpha: α.
        threshold: φ.
        tie_break: `exact` (⌊s·n + ½⌋ zeros; tied entries are ranked by index) or `strict`.

    Raises:
        InputError: a sparsity outside 0 to 1, or a weight that is NaN.
    """
    size = weight.detach().abs().float()
    zeros = count_zeros(sparsity, weight.numel(), tie_break)
    ((rule,),) = select_each([Ranking([size], zeros, tie_break=tie_break)])
    return initial_scores(rule.mask(size), alpha, threshold)


def initial_scores(mask: Tensor, alpha: float, threshold: float) -> Tensor:
    """fp32 scores that stand for `mask` under the first threshold: α·φ where kept, 0 elsewhere."""
    return torch.where(mask, torch.tensor(alpha * threshold, dtype=torch.float32, device=mask.device), 0.0)


def select_threshold(
    scores: Tensor, sparsity: float, weight: Tensor | None = None, tie_break: TieBreak = "exact"
) -> Selection:
    """The threshold that prunes the share `sparsity` of one matrix; mask training re-selects it every t_m steps.

    Args:
        scores: real-valued mask m̂, any shape, fp32 or fp64.
        sparsity: share of zeros, 0 to 1.
        weight: the masked weight, ranks tied scores by |weight|; without it they are ranked by index alone.
        tie_break: `exact` (⌊s·n + ½⌋ zeros) or `strict` (the authors': score > max(1, ⌊s·n⌋)-th smallest).

    Raises:
        InputError: a sparsity outside 0 to 1, or scores that are NaN or neither float32 nor float64.
    """
    together = select_global_threshold([scores], sparsity, None if weight is None else [weight], tie_break)
    return replace(together, mask=together.mask[0])


def select_global_threshold(
    scores: Sequence[Tensor],
    sparsity: float,
    weights: Sequence[Tensor] | None = None,
    tie_break: TieBreak = "exact",
) -> Selection:
    """One threshold that prunes the share `sparsity` of all matrices together; ties go by (|weight|, matrix, position).

    Arguments and errors as in `select_threshold`, one tensor per matrix.
    """
    zeros = count_zeros(sparsity, sum(part.numel() for part in scores), tie_break, reset=True)
    (rules,) = select_each([Ranking(scores, zeros, weights, tie_break)])
    given: Sequence[Tensor | None] = [None] * len(scores) if weights is None else weights
    masks = [rule.mask(part, weight) for rule, part, weight in zip(rules, scores, given, strict=True)]
    return Selection(rules[0].threshold, masks, rules)
