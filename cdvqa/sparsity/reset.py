"""Re-select the thresholds of the masks in training."""

from collections.abc import Sequence

import torch
from torch import nn

from cdvqa.errors import InputError
from cdvqa.sparsity.initialise import remainder
from cdvqa.sparsity.masks.mask import BinaryMask, FixedMask
from cdvqa.sparsity.masks.matrices import MaskedMatrix, masked_matrices
from cdvqa.sparsity.recount import take_over
from cdvqa.sparsity.selection.threshold import Ranking, Rule, count_zeros, select_each
from cdvqa.sparsity.statistics import MatrixReset


@torch.no_grad()
def reset_thresholds(model: nn.Module) -> dict[str, MatrixReset]:
    """Re-select every threshold in place, per matrix or over all as attached, and report by parameter name.

    Right after it the zeros are exactly ⌊s·n + ½⌋ per matrix, or over all matrices under global assignment (`exact`).

    Raises:
        InputError: the model has no masks in training, or a score is NaN.
    """
    matrices = masked_matrices(model)
    rules = iter(rule for ranked in select_each(rankings(matrices)) for rule in ranked)
    thresholds: list[float | None] = []
    counts = []
    for _, _, _, mask, weight in matrices:
        if isinstance(mask, BinaryMask):
            rule = rounded(next(rules), mask)
            thresholds.append(rule.threshold)
            counts.append(take_over(mask, rule, weight))
        else:
            thresholds.append(None)
            zeros = weight.numel() - mask.kept.count_nonzero()
            counts.append(torch.stack([zeros, zeros, torch.zeros_like(zeros)]))
    return {
        name: MatrixReset(mask.placement.modality, weight.numel(), zeros, zeros_before, flips, threshold)
        for (name, _, _, mask, weight), threshold, (zeros_before, zeros, flips) in zip(
            # One transfer, so that nothing waits for a GPU matrix by matrix.
            matrices,
            thresholds,
            torch.stack(counts).tolist(),
            strict=True,
        )
    }


@torch.no_grad()
def first_thresholds(model: nn.Module) -> None:
    """Select the thresholds of scores that start as they are, rather than around a threshold given beforehand."""
    matrices = masked_matrices(model)
    rules = iter(rule for ranked in select_each(rankings(matrices)) for rule in ranked)
    for _, _, _, mask, weight in matrices:
        if isinstance(mask, BinaryMask):
            take_over(mask, next(rules), weight)


def rounded(rule: Rule, mask: BinaryMask) -> Rule:
    """The rule, or under `strict_bf16` the one that the authors' mPLUG follows in its place.

    Its threshold is rounded to bfloat16, and left as it was where it would equal the largest score.
    """
    if mask.placement.tie_break != "strict_bf16":
        return rule
    threshold = torch.tensor(rule.threshold).bfloat16().item()
    return Rule(mask.threshold.item() if threshold == mask.score.max().item() else threshold)


def rankings(matrices: Sequence[MaskedMatrix]) -> list[Ranking]:
    """What is ranked at a reset, by assignment: each matrix in training by itself, or all of them together.

    Raises:
        InputError: none of the matrices is in training.
    """
    live = [(matrix.mask, matrix.weight) for matrix in matrices if isinstance(matrix.mask, BinaryMask)]
    if not live:
        raise InputError("the model has no masks in training whose thresholds could be reset; attach masks first")
    place = live[0][0].placement
    if place.assignment == "global":
        fixed = [matrix.mask.kept for matrix in matrices if isinstance(matrix.mask, FixedMask)]
        total = sum(matrix.weight.numel() for matrix in matrices)
        zeros = remainder(count_zeros(place.sparsity, total, place.tie_break, reset=True), fixed, total)
        return [Ranking([mask.score for mask, _ in live], zeros, [weight for _, weight in live], place.tie_break)]
    return [
        Ranking(
            [mask.score],
            count_zeros(mask.placement.sparsity, weight.numel(), mask.placement.tie_break, reset=True),
            [weight],
            mask.placement.tie_break,
        )
        for mask, weight in live
    ]
