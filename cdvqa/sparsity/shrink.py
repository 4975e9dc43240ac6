"""Remove the heads and neurons that the masks have emptied: smaller matrices, the same answers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from cdvqa.errors import InputError
from cdvqa.sparsity.masks.matrices import owner
from cdvqa.sparsity.patterns import Structure
from cdvqa.sparsity.subnetwork import Subnetwork

NUMBER, WIDTHS = "num_attention_heads", ("head_size", "all_head_size")  # attributes of transformers' attentions


def left_over(structures: Sequence[Structure], masks: Mapping[str, Tensor]) -> dict[str, list[int]]:
    """The heads and neurons that still reach the output, by structure; structures that lost none are left out.

    A unit whose columns of the last matrix are all zero adds nothing, whatever its rows hold. An attention that has
    lost all heads keeps the first one, with its zeros: transformers' code has no attention without any.

    Args:
        structures: of the backbone.
        masks: bool by matrix name, True = kept; a matrix without one is whole.
    """
    found = {}
    for structure in structures:
        name, axis = structure.parts[-1]
        if name not in masks:
            continue
        columns = masks[name].movedim(axis, 0)
        used = columns.reshape(structure.number, -1).any(1).nonzero().flatten().tolist()
        if not used and len(structure.parts) > 2:
            used = [0]
        if len(used) < structure.number:
            found[structure.name] = used
    return found


def kept_positions(
    structures: Sequence[Structure], left: Mapping[str, Sequence[int]], shapes: Mapping[str, Sequence[int]]
) -> Iterator[tuple[str, int, Tensor]]:
    """The rows (axis 0) or columns (1) that each matrix keeps, as (name, axis, indices).

    Args:
        structures: of the backbone.
        left: the heads or neurons to keep, by structure's name, as `left_over` finds them.
        shapes: of the matrices.

    Raises:
        InputError: a structure that the model lacks, or a unit that the structure lacks.
    """
    known = {structure.name: structure for structure in structures}
    if not isinstance(left, Mapping):
        raise InputError("what is left of heads and neurons: expected a mapping")
    for name, units in left.items():
        structure = known.get(name)
        units = units if isinstance(units, Sequence) else [-1]
        if structure is None or any(unit not in range(structure.number) for unit in units):
            raise InputError(f"{name}: this backbone has no such heads or neurons")
        for matrix, axis in structure.parts:
            size = shapes[matrix][axis] // structure.number
            positions = [unit * size + offset for unit in units for offset in range(size)]
            yield matrix, axis, torch.tensor(positions, dtype=torch.long)


def shrink_tensors(
    tensors: Mapping[str, Tensor], structures: Sequence[Structure], left: Mapping[str, Sequence[int]]
) -> dict[str, Tensor]:
    """Tensors by parameter name (weights, or masks) without the rows, columns and biases of what is removed."""
    small = dict(tensors)
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    for name, axis, positions in kept_positions(structures, left, shapes):
        small[name] = small[name].index_select(axis, positions)
        bias = f"{name.removesuffix('.weight')}.bias"
        if axis == 0 and bias in small:
            small[bias] = small[bias].index_select(0, positions)
    return small


def without_unused(network: Subnetwork, structures: Sequence[Structure], unused: Sequence[str]) -> Subnetwork:
    """A network without empty heads and neurons, and without the parameters that no answer needs.

    If something is removed, so are the masks that keep everything; otherwise stage 3 still needs every mask.

    Args:
        network: whole.
        structures: of the backbone.
        unused: prefixes of the names of parameters that no answer needs.
    """
    gone, left = tuple(unused), left_over(structures, network.masks)
    if not left and not gone:
        return network
    masks = shrink_tensors(network.masks, structures, left)
    masks = {name: mask for name, mask in masks.items() if not name.startswith(gone) and not mask.all()}
    state = shrink_tensors(network.state, structures, left)
    state = {name: value for name, value in state.items() if not name.startswith(gone)}
    return replace(network, state=state, masks=masks, metadata=network.metadata | {"left": left, "reduced": True})


@torch.no_grad()
def shrink(model: nn.Module, structures: Sequence[Structure], left: Mapping[str, Sequence[int]]) -> None:
    """Make a model's matrices smaller, in place; if what is removed was empty, its answers stay the same.

    Args:
        model: without masks attached.
        structures: of the backbone.
        left: the heads or neurons to keep, by structure's name.
    """
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    for name, axis, positions in kept_positions(structures, left, shapes):
        keep(cast(nn.Linear, owner(model, name)[0]), axis, positions)
    for structure in structures:
        first = structure.parts[0].name
        attention = model.get_submodule(first.removesuffix(".weight").rpartition(".")[0])
        if structure.name in left and hasattr(attention, NUMBER):
            setattr(attention, NUMBER, len(left[structure.name]))
            for attribute in WIDTHS:
                if hasattr(attention, attribute):
                    setattr(attention, attribute, model.get_parameter(first).shape[0])


def keep(layer: nn.Linear, axis: int, positions: Tensor) -> None:
    """Keep these rows (axis 0, with their biases) or columns (axis 1) of a linear layer."""
    positions = positions.to(layer.weight.device)
    layer.weight = nn.Parameter(layer.weight.index_select(axis, positions), layer.weight.requires_grad)
    if axis == 1:
        layer.in_features = len(positions)
        return
    layer.out_features = len(positions)
    if layer.bias is not None:
        layer.bias = nn.Parameter(layer.bias.index_select(0, positions), layer.bias.requires_grad)
