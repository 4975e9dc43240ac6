"""Find the masked matrices of a model and read their masks."""

from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.utils import parametrize

from cdvqa.sparsity.masks.mask import BinaryMask, FixedMask
from cdvqa.sparsity.masks.units import TwoOfFour, UnitMask

TrainedMask = BinaryMask | UnitMask | TwoOfFour


class MaskedMatrix(NamedTuple):
    """A masked weight: its parameter name, the module and attribute that hold it, its mask and the unmasked weight."""

    name: str
    module: nn.Module
    tensor: str
    mask: TrainedMask | FixedMask
    weight: Tensor


def masked_matrices(model: nn.Module) -> list[MaskedMatrix]:
    """Every masked matrix of the model in the order of attachment (other parametrizations are skipped)."""
    found = []
    for path, module in model.named_modules():
        lists: Any = module.parametrizations if parametrize.is_parametrized(module) else {}
        for tensor, parametrizations in lists.items():
            mask = parametrizations[0]
            if isinstance(mask, TrainedMask | FixedMask):
                name = f"{path}.{tensor}".removeprefix(".")
                found.append(MaskedMatrix(name, module, tensor, mask, parametrizations.original))
    return sorted(found, key=lambda matrix: matrix.mask.placement.order)


def masks(model: nn.Module) -> dict[str, Tensor]:
    """The live mask of every masked matrix by parameter name (bool, True = kept), in the order of attachment."""
    return {matrix.name: matrix.mask.mask(matrix.weight) for matrix in masked_matrices(model)}


def binary_masks(model: nn.Module) -> dict[str, TrainedMask]:
    """The masks in training by parameter name, in the order of attachment; those of dead matrices are left out."""
    return {
        matrix.name: matrix.mask
        for matrix in masked_matrices(model)
        if isinstance(matrix.mask, TrainedMask) and matrix.mask.score.requires_grad
    }


def owner(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module that holds a parameter, and the name of its attribute."""
    path, _, tensor = name.rpartition(".")
    return model.get_submodule(path), tensor
