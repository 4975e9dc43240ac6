"""Re-select the thresholds of the masks in training."""

import torch
from torch import nn

from cdvqa.errors import InputError
from cdvqa.sparsity.bits import differing_bits
from cdvqa.sparsity.initialise import remainder
from cdvqa.sparsity.mask import BinaryMask, FixedMask
from cdvqa.sparsity.matrices import MaskedMatrix, masked_matrices
from cdvqa.sparsity.statistics import MatrixReset
from cdvqa.sparsity.threshold import Rule, count_zeros, select_rules


@torch.no_grad()
def reset_thresholds(model: nn.Module) -> dict[str, MatrixReset]:
    """Re-select every threshold in place, per matrix or over all as attached, and report by parameter name.

    Right after it the zeros are exactly ⌊s·n + ½⌋ per matrix, or over all matrices under global assignment (`exact`).

    Raises:
        InputError: the model has no masks in training, or a score is NaN.
    """
    matrices = masked_matrices(model)
    live = [matrix for matrix in matrices if isinstance(matrix.mask, BinaryMask)]
    if not live:
        raise InputError("the model has no masks in training whose thresholds could be reset; attach masks first")
    is_global = live[0].mask.placement.assignment == "global"
    rules = _global_rules(matrices, live) if is_global else [_rule(matrix) for matrix in live]
    rule_of = {matrix.name: rule for matrix, rule in zip(live, rules, strict=True)}

    report = {}
    for name, _, _, mask, weight in matrices:
        before = after = mask.mask(weight)
        flips, threshold = 0, None
        if isinstance(mask, BinaryMask):
            threshold, last = rule_of[name].threshold, mask.selected.clone()
            after = mask.follow(rule_of[name], weight)
            flips = differing_bits(last, mask.selected)
        zeros_before, zeros = (int((~kept).sum()) for kept in (before, after))
        report[name] = MatrixReset(mask.placement.modality, weight.numel(), zeros, zeros_before, flips, threshold)
    return report


def _rule(matrix: MaskedMatrix) -> Rule:
    place, score = matrix.mask.placement, _score(matrix)
    zeros = count_zeros(place.sparsity, score.numel(), place.tie_break, reset=True)
    (rule,) = select_rules([score], zeros, [matrix.weight], place.tie_break)
    return rule


def _global_rules(matrices: list[MaskedMatrix], live: list[MaskedMatrix]) -> list[Rule]:
    place = live[0].mask.placement
    fixed = [matrix.mask.kept for matrix in matrices if isinstance(matrix.mask, FixedMask)]
    total = sum(matrix.weight.numel() for matrix in matrices)
    zeros = remainder(count_zeros(place.sparsity, total, place.tie_break, reset=True), fixed, total)
    return select_rules([_score(matrix) for matrix in live], zeros, [m.weight for m in live], place.tie_break)


def _score(matrix: MaskedMatrix) -> torch.Tensor:
    assert isinstance(matrix.mask, BinaryMask)
    return matrix.mask.score
