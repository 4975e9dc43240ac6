"""The masks that mask training starts from, which are those of one-shot magnitude pruning, or random ones."""

from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from cdvqa.errors import InputError
from cdvqa.sparsity.masks.matrices import masked_matrices, owner
from cdvqa.sparsity.selection.threshold import TieBreak, count_zeros, select_rules

Assignment = Literal["uniform", "modality", "global"]
Initialisation = Literal["magnitude", "random", "weight"]


def omp_masks(
    model: nn.Module,
    groups: Mapping[str, Sequence[str]],
    sparsity: Mapping[str, float],
    *,
    assignment: Assignment = "uniform",
    overall: float | None = None,
    tie_break: TieBreak = "exact",
    dead: Collection[str] = (),
) -> dict[str, Tensor]:
    """The masks of one-shot magnitude pruning, for `attach_fixed_masks`: the very masks that mask training starts from.

    The model is only read. Arguments, errors and order are those of `attach_masks`.
    """
    return initial_masks(
        model, groups, sparsity, assignment=assignment, overall=overall, tie_break=tie_break, dead=dead
    )


def initial_masks(
    model: nn.Module,
    groups: Mapping[str, Sequence[str]],
    sparsity: Mapping[str, float],
    *,
    assignment: Assignment = "uniform",
    overall: float | None = None,
    initialisation: Initialisation = "magnitude",
    tie_break: TieBreak = "exact",
    dead: Collection[str] = (),
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """Bool masks by parameter name (True = kept) in the order of `groups`; arguments as in `attach_masks`.

    Raises:
        InputError: a name that is no parameter, listed twice or masked already; a modality without a sparsity.
    """
    names = [name for members in groups.values() for name in members]
    check_names(model, names, dead)
    rates = matrix_rates(groups, sparsity, assignment, overall)
    fixed = fixed_matrices(dead, assignment, tie_break)
    # The smallest of n random numbers are a draw without replacement; their (rare) ties must not cost extra zeros.
    live_tie_break: TieBreak = "exact" if initialisation == "random" else tie_break
    importance = {}
    for name in names:
        weight = getattr(*owner(model, name)).detach()
        drawn = initialisation == "random" and name not in fixed
        importance[name] = (
            torch.rand(weight.shape, generator=generator).to(weight.device) if drawn else weight.abs().float()
        )

    rules = {}
    for name in names if assignment != "global" else fixed:
        zeros = count_zeros(rates[name], importance[name].numel(), tie_break)
        (rules[name],) = select_rules(
            [importance[name]], zeros, tie_break=tie_break if name in fixed else live_tie_break
        )
    kept = {name: rule.mask(importance[name]) for name, rule in rules.items()}
    if assignment == "global":
        live = [name for name in names if name not in fixed]
        total = sum(part.numel() for part in importance.values())
        assert overall is not None  # matrix_rates has seen to it
        zeros = remainder(count_zeros(overall, total, tie_break), kept.values(), total)
        live_rules = select_rules([importance[name] for name in live], zeros, tie_break=live_tie_break)
        kept |= {name: rule.mask(importance[name]) for name, rule in zip(live, live_rules, strict=True)}
    return {name: kept[name] for name in names}


def matrix_rates(
    groups: Mapping[str, Sequence[str]],
    sparsity: Mapping[str, float],
    assignment: Assignment,
    overall: float | None,
) -> dict[str, float]:
    """The share of zeros of each matrix: its modality's, or under global assignment the overall share."""
    if assignment == "global":
        if overall is None:
            raise InputError("global assignment needs the overall sparsity")
        return {name: overall for names in groups.values() for name in names}
    for modality in groups:
        if modality not in sparsity:
            raise InputError(f"no sparsity is given for the {modality} matrices")
    return {name: sparsity[modality] for modality, names in groups.items() for name in names}


def fixed_matrices(dead: Collection[str], assignment: Assignment, tie_break: TieBreak) -> Collection[str]:
    """Dead matrices with a mask of their own: all of them, except that the authors' global threshold ranks them in."""
    return () if assignment == "global" and tie_break != "exact" else dead


def remainder(zeros: int, fixed: Collection[Tensor], total: int) -> int:
    """How many of `zeros` over `total` entries are left to the live matrices beside the `fixed` masks."""
    settled = sum(mask.numel() for mask in fixed)
    left = zeros - sum(int((~mask).sum()) for mask in fixed)
    return min(max(left, 0), total - settled)


def check_names(model: nn.Module, names: Sequence[str], dead: Collection[str] = ()) -> None:
    """Refuse names that cannot be masked, before anything is changed."""
    parameters, masked = dict(model.named_parameters()), {matrix.name for matrix in masked_matrices(model)}
    for name in names:
        if name in masked:
            raise InputError(f"{name} has a mask already; fold the masks before attaching others")
        if name not in parameters:
            raise InputError(f"the model has no parameter {name} to mask")
    if len(set(names)) < len(names):
        twice = next(name for name in names if list(names).count(name) > 1)
        raise InputError(f"{twice} is listed twice among the matrices to mask")
    unknown = set(dead) - set(names)
    if unknown:
        raise InputError(f"the dead matrix {min(unknown)} is not among the matrices to mask")
