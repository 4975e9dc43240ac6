"""Put masks on a model's own weights, and take them off again."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from cdvqa.errors import InputError
from cdvqa.presets import TieBreak
from cdvqa.registry import make
from cdvqa.sparsity.assignment import ASSIGNMENTS, Assignment, Group, Matrix
from cdvqa.sparsity.criteria import CRITERIA, Criterion, Gradients, Magnitude
from cdvqa.sparsity.masks.lookup import mask_rows_only
from cdvqa.sparsity.masks.mask import BinaryMask, FixedMask, Placement
from cdvqa.sparsity.masks.matrices import TrainedMask, masked_matrices, owner
from cdvqa.sparsity.masks.units import TwoOfFour, UnitMask, Units
from cdvqa.sparsity.patterns import Pattern, Structure, patterned_masks, unit_groups
from cdvqa.sparsity.reset import first_thresholds, live_zeros
from cdvqa.sparsity.selection.threshold import Ranking, count_zeros, initial_scores, select_each


@dataclass(frozen=True)
class Layout:
    """Which matrices are masked, in which groups, and which of them keep a fixed magnitude mask."""

    matrices: dict[str, Matrix]
    groups: list[Group]
    fixed: Collection[str]
    tie_break: TieBreak
    pattern: Pattern
    structures: Sequence[Structure]

    @property
    def weights(self) -> dict[str, Tensor]:
        return {name: matrix.weight for name, matrix in self.matrices.items()}

    @property
    def shares(self) -> dict[str, float]:
        """Share of zeros of the group of each matrix."""
        return {name: group.share for group in self.groups for name in group.names}


def attach_masks(
    model: nn.Module,
    groups: Mapping[str, Sequence[str]],
    sparsity: Mapping[str, float],
    *,
    criterion: str | Criterion = "magnitude",
    gradients: Iterable[Gradients] = (),
    scores: Literal["two_level", "weight"] = "two_level",
    alpha: float = 2.0,
    threshold: float = 0.01,
    tie_break: TieBreak = "exact",
    dead: Collection[str] = (),
    **zeros: Any,
) -> None:
    """Mask the matrices of `groups` for mask training and freeze their weights; nothing else of the model changes.

    Args:
        groups: parameter names per modality, relative to `model`. Their order is the order of matrices everywhere.
        sparsity: share of zeros per modality.
        criterion: what picks the first mask, by name or as an object.
        gradients: one item for each batch that the criterion asks for.
        scores: kept entries start at alpha x threshold and the others at 0 (paper Eq. 3); or all at |weight|.
        alpha, threshold: of the scores `two_level`; with alpha 1 the kept scores are tied with the threshold, and stay
            kept until the first reset.
        dead: matrices that cannot reach the answer. They keep a fixed magnitude mask at the share of their group, whose
            other matrices take the exact remainder; under `strict` a group of several ranks them with the others.
        zeros: `assignment`, how the zeros are shared out, by name or as an object; `overall`, share of zeros over all
            matrices, which follows from `sparsity` where it is not given; `pattern` of the zeros, and the `structures`
            of the model that the pattern `structured` prunes.

    Raises:
        InputError: a name that is no parameter, listed twice or masked already; a modality without a sparsity; groups
            that do not hold every matrix once; importance that cannot be ranked.
    """
    check_levels(alpha, threshold, tie_break)
    layout = lay_out(model, groups, sparsity, tie_break, dead, **zeros)
    kept = first_masks(layout, criterion, gradients)
    made = {} if layout.pattern == "unstructured" else unit_masks(layout, kept, alpha, threshold)
    group_of = {name: number for number, group in enumerate(layout.groups) for name in group.names}
    for order, (name, mask) in enumerate(kept.items()):
        group = group_of[name]
        placement = Placement(order, layout.matrices[name].modality, group, layout.groups[group].share, tie_break)
        module, tensor = owner(model, name)
        getattr(module, tensor).requires_grad_(False)
        if name in layout.fixed or (layout.pattern != "unstructured" and name not in made):
            parametrize.register_parametrization(module, tensor, FixedMask(mask, placement))
            continue
        weight = getattr(module, tensor).detach()
        if layout.pattern == "unstructured":
            start = weight.abs().float() if scores == "weight" else initial_scores(mask, alpha, threshold)
            made[name] = BinaryMask(start, threshold, keep_ties=levels_meet(alpha, threshold))
        trained = made[name]
        trained.placement = placement
        trained.score.requires_grad_(name not in dead)
        parametrize.register_parametrization(module, tensor, trained)
        if isinstance(module, nn.Embedding):
            mask_rows_only(module)
    if scores == "weight":
        first_thresholds(model)


def unit_masks(layout: Layout, kept: Mapping[str, Tensor], alpha: float, threshold: float) -> dict[str, TrainedMask]:
    """The masks in training of a pattern, by matrix name; matrices that it does not prune have none.

    Args:
        layout: of a pattern that is not `unstructured`.
        kept: the first masks.
        alpha, threshold: of the scores.
    """
    weights, shares = layout.weights, layout.shares
    if layout.pattern == "2:4":
        pruned = [name for name, weight in weights.items() if weight.dim() == 2]
        return {name: TwoOfFour(initial_scores(kept[name], alpha, threshold), weights[name]) for name in pruned}
    made: dict[str, TrainedMask] = {}
    for group in unit_groups(layout.pattern, weights, shares, layout.structures):
        name, spread = next(iter(group.spreads.items()))
        start = initial_scores(spread.sums(kept[name].float()) > 0, alpha, threshold)
        placement = Placement(0, share=group.share)
        units = Units(start, group.norms(weights), threshold, placement, levels_meet(alpha, threshold))
        made |= {name: UnitMask(units, spread) for name, spread in group.spreads.items()}
    return made


def one_shot_masks(
    model: nn.Module,
    groups: Mapping[str, Sequence[str]],
    sparsity: Mapping[str, float],
    *,
    criterion: str | Criterion = "magnitude",
    gradients: Iterable[Gradients] = (),
    tie_break: TieBreak = "exact",
    dead: Collection[str] = (),
    **zeros: Any,
) -> dict[str, Tensor]:
    """The masks of one-shot pruning, for `attach_fixed_masks`: the masks that mask training starts from.

    The model is only read. Arguments, errors and order are those of `attach_masks`.
    """
    return first_masks(lay_out(model, groups, sparsity, tie_break, dead, **zeros), criterion, gradients)


def lay_out(
    model: nn.Module,
    groups: Mapping[str, Sequence[str]],
    sparsity: Mapping[str, float],
    tie_break: TieBreak,
    dead: Collection[str],
    assignment: str | Assignment = "uniform",
    overall: float | None = None,
    pattern: Pattern = "unstructured",
    structures: Sequence[Structure] = (),
) -> Layout:
    """Check the names and let the assignment form its groups; arguments and errors as in `attach_masks`."""
    check_names(model, [name for names in groups.values() for name in names], dead)
    for modality in groups:
        if modality not in sparsity:
            raise InputError(f"no sparsity is given for the {modality} matrices")
    matrices = {
        name: Matrix(name, modality, getattr(*owner(model, name)).detach(), sparsity[modality])
        for modality, names in groups.items()
        for name in names
    }
    if isinstance(assignment, str):
        assignment = make("assignment", assignment, ASSIGNMENTS, Assignment)
    if overall is None:
        zeros = sum(matrix.share * matrix.weight.numel() for matrix in matrices.values())
        overall = round(zeros / max(sum(matrix.weight.numel() for matrix in matrices.values()), 1), 12)
    formed = assignment.groups(list(matrices.values()), overall)
    what = type(assignment).__name__
    if sorted(name for group in formed for name in group.names) != sorted(matrices):
        raise InputError(f"assignment {what}: its groups must hold each of the {len(matrices)} matrices exactly once")
    for group in formed:
        if not 0 <= group.share <= 1:
            raise InputError(f"assignment {what}: sparsity is {group.share:g} for {group.names[0]}; it must be 0 to 1")
    fixed = {
        name
        for group in formed
        for name in group.names
        if name in dead and (tie_break == "exact" or len(group.names) == 1)
    }
    if pattern != "unstructured":
        check_pattern(pattern, formed, tie_break)
    return Layout(matrices, formed, fixed, tie_break, pattern, structures)


def check_pattern(pattern: Pattern, groups: Sequence[Group], tie_break: TieBreak) -> None:
    """Raise InputError where a pattern cannot give the shares of the groups."""
    if tie_break != "exact":
        raise InputError(f"--model.sparsity.pattern {pattern} needs --model.tie_break exact, not {tie_break}")
    if together := next((group for group in groups if len(group.names) > 1), None):
        raise InputError(
            f"--model.sparsity.pattern {pattern} prunes matrix by matrix, and the assignment ranks "
            f"{len(together.names)} together; use --model.sparsity.assignment uniform or modality"
        )


def first_masks(layout: Layout, criterion: str | Criterion, gradients: Iterable[Gradients]) -> dict[str, Tensor]:
    """Bool masks by parameter name (True = kept), in the order of the matrices: the least important are zero."""
    if isinstance(criterion, str):
        criterion = make("criterion", criterion, CRITERIA, Criterion)
    weights = layout.weights
    live = {name: weight for name, weight in weights.items() if name not in layout.fixed}
    importance = {name: weights[name].abs().float() for name in layout.fixed}
    importance |= check_importance(criterion, criterion.importance(live, gradients), live)
    if layout.pattern != "unstructured":
        return patterned_masks(layout.pattern, importance, weights, layout.shares, layout.structures)
    # `strict` prunes every entry tied with the threshold, which is the authors' rule for magnitudes alone.
    tie_break = layout.tie_break if isinstance(criterion, Magnitude) else "exact"
    sizes = {name: weight.numel() for name, weight in weights.items()}
    parts: list[tuple[list[str], int, TieBreak]] = []  # matrices that are ranked together, and their zeros
    for names, share in layout.groups:
        fixed = [name for name in names if name in layout.fixed]
        parts += [([name], count_zeros(share, sizes[name], layout.tie_break), layout.tie_break) for name in fixed]
        if trained := [name for name in live if name in names]:
            counts = [sizes[name] for name in trained], [sizes[name] for name in fixed]
            parts.append((trained, live_zeros(share, *counts, layout.tie_break), tie_break))
    rankings = [
        Ranking([importance[name] for name in names], zeros, [weights[name] for name in names], tie)
        for names, zeros, tie in parts
    ]
    rules = [rule for of_group in select_each(rankings) for rule in of_group]
    rule_of = dict(zip([name for names, _, _ in parts for name in names], rules, strict=True))
    return {name: rule_of[name].mask(importance[name], weight) for name, weight in weights.items()}


def check_importance(
    criterion: Criterion, importance: Mapping[str, Tensor], weights: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """What the criterion returned, in fp32 (or fp64), or an InputError that names the first wrong matrix."""
    what, checked = type(criterion).__name__, {}
    for name, weight in weights.items():
        values = importance.get(name)
        if values is None or values.shape != weight.shape:
            found = "nothing" if values is None else f"a tensor of shape {tuple(values.shape)}"
            raise InputError(f"criterion {what} returned {found} for {name} of shape {tuple(weight.shape)}")
        checked[name] = values.detach() if values.dtype == torch.float64 else values.detach().float()
        if checked[name].isnan().any():
            raise InputError(f"criterion {what} returned NaN for {name}")
    return checked


def levels_meet(alpha: float, threshold: float) -> bool:
    """Whether kept scores start exactly at the threshold, in fp32."""
    start, level = torch.tensor([alpha * threshold, threshold], dtype=torch.float32, device="cpu").tolist()
    return bool(start == level)


def check_levels(alpha: float, threshold: float, tie_break: TieBreak) -> None:
    """Raise InputError where kept scores would be pruned by the threshold."""
    if tie_break != "exact" and levels_meet(alpha, threshold):
        raise InputError(
            f"--model.sparsity.alpha {alpha:g}: kept scores start at the threshold, and --model.tie_break {tie_break} "
            "would prune all of them; use tie_break exact or a greater alpha"
        )


def check_names(model: nn.Module, names: Sequence[str], dead: Collection[str] = ()) -> None:
    """Raise InputError for names that cannot be masked, before anything is changed."""
    parameters, masked = dict(model.named_parameters()), {matrix.name for matrix in masked_matrices(model)}
    for name in names:
        if name in masked:
            raise InputError(f"{name} has a mask already; fold the masks before attaching others")
        if name not in parameters:
            raise InputError(f"the model has no parameter {name} to mask")
    if twice := [name for name in names if list(names).count(name) > 1]:
        raise InputError(f"{twice[0]} is listed twice among the matrices to mask")
    unknown = set(dead) - set(names)
    if unknown:
        raise InputError(f"the dead matrix {min(unknown)} is not among the matrices to mask")


def attach_fixed_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Attach constant masks (bool by parameter name, True = kept); what was trainable stays trainable.

    Raises:
        InputError: a name that is no parameter of `model` or masked already, or a mask of another shape.
    """
    check_names(model, list(masks))
    for name, mask in masks.items():
        shape = getattr(*owner(model, name)).shape
        if mask.shape != shape or mask.dtype != torch.bool:
            raise InputError(
                f"the mask of {name} is {mask.dtype} {tuple(mask.shape)} where the weight needs torch.bool "
                f"{tuple(shape)}; it seems to be of another backbone"
            )
    for order, (name, mask) in enumerate(masks.items()):
        module, tensor = owner(model, name)
        kept = mask.detach().to(getattr(module, tensor).device, copy=True)
        parametrize.register_parametrization(module, tensor, FixedMask(kept, Placement(order)))


def fold_masks(model: nn.Module) -> None:
    """Write the zeros into the weights and remove the masks; a model without masks is left as it is."""
    for matrix in masked_matrices(model):
        parametrize.remove_parametrizations(matrix.module, matrix.tensor, leave_parametrized=True)


@torch.no_grad()
def dense_state(model: nn.Module) -> dict[str, Tensor]:
    """The state dict that `fold_masks` would leave: plain names, zeros in the weights, no scores.

    Tensors are copies on the CPU; the model is left as it is.
    """
    state = dict(model.state_dict())
    for matrix in masked_matrices(model):
        path = matrix.name.removesuffix(matrix.tensor)
        prefix = f"{path}parametrizations.{matrix.tensor}."
        state = {key: value for key, value in state.items() if not key.startswith(prefix)}
        state[matrix.name] = getattr(matrix.module, matrix.tensor)
    return {key: value.detach().cpu().clone(memory_format=torch.contiguous_format) for key, value in state.items()}
