"""Put masks on a model's own weights, and take them off again."""

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from cdvqa.errors import InputError
from cdvqa.sparsity.initialise import (
    Assignment,
    Initialisation,
    check_names,
    fixed_matrices,
    initial_masks,
    matrix_rates,
)
from cdvqa.sparsity.masks.lookup import mask_rows_only
from cdvqa.sparsity.masks.mask import BinaryMask, FixedMask, Placement
from cdvqa.sparsity.masks.matrices import masked_matrices, owner
from cdvqa.sparsity.reset import first_thresholds
from cdvqa.sparsity.selection.threshold import TieBreak, initial_scores


def attach_masks(
    model: nn.Module,
    groups: Mapping[str, Sequence[str]],
    sparsity: Mapping[str, float],
    *,
    assignment: Assignment = "uniform",
    overall: float | None = None,
    initialisation: Initialisation = "magnitude",
    alpha: float = 2.0,
    threshold: float = 0.01,
    tie_break: TieBreak = "exact",
    dead: Collection[str] = (),
    generator: torch.Generator | None = None,
) -> None:
    """Mask the matrices of `groups` for mask training and freeze their weights; nothing else of the model changes.

    Args:
        groups: parameter names per modality, relative to `model`. Their order is the order of matrices everywhere.
        sparsity: share of zeros per modality; under `global` assignment `overall` counts instead.
        initialisation: start from the mask of one-shot magnitude pruning, or from as many zeros drawn at random.
            `weight` starts from the former too, but every score from its own |weight| (the authors' mPLUG).
        alpha, threshold: kept entries start at alpha x threshold, the others at 0 (paper Eq. 3); not for `weight`.
        dead: matrices that cannot reach the answer. They keep a fixed magnitude mask at their rate (global: at the
            overall rate, the others taking the exact remainder), except that `strict` global ranks them with the rest.
        generator: CPU generator of the random initialisation.

    Raises:
        InputError: a name that is no parameter, listed twice or masked already; a modality without a sparsity.
    """
    if not (alpha > 1 and threshold > 0):
        raise InputError(f"alpha {alpha:g}, threshold {threshold:g}: kept scores must start above a positive threshold")
    kept = initial_masks(
        model,
        groups,
        sparsity,
        assignment=assignment,
        overall=overall,
        initialisation=initialisation,
        tie_break=tie_break,
        dead=dead,
        generator=generator,
    )
    rates = matrix_rates(groups, sparsity, assignment, overall)
    fixed = fixed_matrices(dead, assignment, tie_break)
    modality_of = {name: modality for modality, names in groups.items() for name in names}
    for order, (name, mask) in enumerate(kept.items()):
        placement = Placement(order, modality_of[name], rates[name], assignment, tie_break)
        module, tensor = owner(model, name)
        getattr(module, tensor).requires_grad_(False)
        if name in fixed:
            parametrize.register_parametrization(module, tensor, FixedMask(mask, placement))
        else:
            weight = getattr(module, tensor).detach()
            scores = weight.abs().float() if initialisation == "weight" else initial_scores(mask, alpha, threshold)
            trained = BinaryMask(scores, threshold, placement)
            trained.score.requires_grad_(name not in dead)
            parametrize.register_parametrization(module, tensor, trained)
            if isinstance(module, nn.Embedding):
                mask_rows_only(module)
    if initialisation == "weight":
        first_thresholds(model)


def attach_fixed_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Hold the zeros of `masks` (bool by parameter name, True = kept) in place; what was trainable stays trainable.

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
    """Write the zeros into the weights and remove the machinery; on a model without masks it does nothing."""
    for matrix in masked_matrices(model):
        parametrize.remove_parametrizations(matrix.module, matrix.tensor, leave_parametrized=True)


@torch.no_grad()
def dense_state(model: nn.Module) -> dict[str, Tensor]:
    """The state dict that `fold_masks` would leave: plain names, zeros in the weights, no machinery.

    Tensors are copies on the CPU; the model is left as it is.
    """
    state = {key: value for key, value in model.state_dict().items()}
    for matrix in masked_matrices(model):
        path = matrix.name.removesuffix(matrix.tensor)
        machinery = f"{path}parametrizations.{matrix.tensor}."
        state = {key: value for key, value in state.items() if not key.startswith(machinery)}
        state[matrix.name] = getattr(matrix.module, matrix.tensor)
    return {key: value.detach().cpu().clone(memory_format=torch.contiguous_format) for key, value in state.items()}
