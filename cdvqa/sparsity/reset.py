"""Re-select the thresholds of the masks in training, and count what that changes."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cdvqa.errors import InputError
from cdvqa.presets import TieBreak
from cdvqa.sparsity.masks.mask import BinaryMask, pack, unpack
from cdvqa.sparsity.masks.matrices import MaskedMatrix, TrainedMask, masked_matrices
from cdvqa.sparsity.masks.units import TwoOfFour, UnitMask, Units
from cdvqa.sparsity.selection.threshold import Ranking, Rule, count_zeros, select_each
from cdvqa.sparsity.statistics import MatrixReset


@torch.no_grad()
def reset_thresholds(model: nn.Module) -> dict[str, MatrixReset]:
    """Re-select every threshold in place, group by group, and report by parameter name.

    Right after it each group of the assignment has exactly ⌊s·n + ½⌋ zeros (`exact`).

    Raises:
        InputError: the model has no masks in training, or a score is NaN.
    """
    matrices = masked_matrices(model)
    if not any(isinstance(matrix.mask, TrainedMask) for matrix in matrices):
        raise InputError("the model has no masks in training whose thresholds could be reset; attach masks first")
    rules = select_all(matrices)
    units = reset_units(matrices)
    thresholds: dict[str, float] = {}
    counts = []
    for name, _, _, mask, weight in matrices:
        if isinstance(mask, BinaryMask):
            rule = rounded(rules[name], mask)
            thresholds[name] = rule.threshold
            counts.append(take_over(mask, rule, weight))
        elif isinstance(mask, UnitMask):
            thresholds[name] = float(mask.units.threshold)
            counts.append(changes(*(mask.spread.expand(kept, weight) for kept in units[mask.units])))
        elif isinstance(mask, TwoOfFour):
            before = mask.kept.clone()
            mask.reselect(weight)
            counts.append(changes(before, before, mask.kept))
        else:
            counts.append(changes(mask.kept, mask.kept, mask.kept))
    numbers = torch.stack(counts).tolist()  # one transfer, so that nothing waits for a GPU matrix by matrix
    return {
        name: MatrixReset(mask.placement.modality, weight.numel(), zeros, before, flips, thresholds.get(name))
        for (name, _, _, mask, weight), (before, zeros, flips) in zip(matrices, numbers, strict=True)
    }


@torch.no_grad()
def first_thresholds(model: nn.Module) -> None:
    """Select the first thresholds of scores that start at |W|, which have no threshold yet."""
    matrices = masked_matrices(model)
    rules = select_all(matrices)
    for name, _, _, mask, weight in matrices:
        if isinstance(mask, BinaryMask):
            take_over(mask, rules[name], weight)


def select_all(matrices: Sequence[MaskedMatrix]) -> dict[str, Rule]:
    """The rule of every matrix whose entries are ranked one by one, by name."""
    ranked = rankings(matrices)
    selected = zip([names for names, _ in ranked], select_each([ranking for _, ranking in ranked]), strict=True)
    return {name: rule for members, rules in selected for name, rule in zip(members, rules, strict=True)}


def rankings(matrices: Sequence[MaskedMatrix]) -> list[tuple[list[str], Ranking]]:
    """What a reset ranks: of each group, the names of its matrices in training, and their scores and weights."""
    groups: dict[int, list[MaskedMatrix]] = {}
    for matrix in matrices:
        groups.setdefault(matrix.mask.placement.group, []).append(matrix)
    ranked = []
    for members in groups.values():
        placement = members[0].mask.placement
        live = [(m.name, m.mask.score, m.weight) for m in members if isinstance(m.mask, BinaryMask)]
        fixed = [m.weight.numel() for m in members if not isinstance(m.mask, BinaryMask)]
        if live:
            names, scores, weights = (list(column) for column in zip(*live, strict=True))
            live_sizes, tie_break = [weight.numel() for weight in weights], placement.tie_break
            zeros = live_zeros(placement.share, live_sizes, fixed, tie_break, reset=True)
            ranked.append((names, Ranking(scores, zeros, weights, tie_break)))
    return ranked


def reset_units(matrices: Sequence[MaskedMatrix]) -> dict[Units, tuple[Tensor, Tensor, Tensor]]:
    """Re-select the units in training; by group, which are kept before, by the latest selection, and now (bool)."""
    groups = list(dict.fromkeys(m.mask.units for m in matrices if isinstance(m.mask, UnitMask)))
    ranked = [
        Ranking([units.score], count_zeros(units.placement.share, units.score.numel()), [units.norm])
        for units in groups
    ]
    found = {}
    for units, (rule,) in zip(groups, select_each(ranked), strict=True):
        before, selected = units.kept, unpack(units.selected, units.score.shape)
        units.follow(rule)
        units.selected.copy_(pack(units.kept))
        found[units] = (before, selected, units.kept)
    return found


def live_zeros(
    share: float, live: Sequence[int], fixed: Sequence[int], tie_break: TieBreak, reset: bool = False
) -> int:
    """The zeros of a group less those of its fixed matrices; `live` and `fixed` are numbers of weights by matrix."""
    total = count_zeros(share, sum(live) + sum(fixed), tie_break, reset)
    left = total - sum(count_zeros(share, weights, tie_break) for weights in fixed)
    return min(max(left, 0), sum(live))


def rounded(rule: Rule, mask: BinaryMask) -> Rule:
    """The rule, or under `strict_bf16` the one that the authors' mPLUG follows in its place.

    Its threshold is rounded to bfloat16, and left as it was where it would equal the largest score.
    """
    if mask.placement.tie_break != "strict_bf16":
        return rule
    threshold = torch.tensor(rule.threshold).bfloat16().item()
    return Rule(mask.threshold.item() if threshold == mask.score.max().item() else threshold)


@torch.no_grad()
def take_over(mask: BinaryMask, rule: Rule, weight: Tensor) -> Tensor:
    """Let `mask` follow `rule`, and store its new mask as that of the latest selection.

    Returns:
        What `changes` counts, on the mask's device.
    """
    before, selected = mask.mask(weight), unpack(mask.selected, weight.shape)
    mask.follow(rule)
    after = mask.mask(weight)
    mask.selected.copy_(pack(after))
    return changes(before, selected, after)


def changes(before: Tensor, selected: Tensor, after: Tensor) -> Tensor:
    """int64 (3,): zeros before a reset, zeros after it, and entries that are not as the latest selection left them."""
    entries = after.numel()
    zeros = [entries - before.count_nonzero(), entries - after.count_nonzero()]
    return torch.stack([*zeros, (selected ^ after).count_nonzero()])
