"""Patterns of zeros that hardware or a smaller network can use: which weights are kept or pruned as one."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from cdvqa.errors import InputError
from cdvqa.sparsity.masks.units import Spread, two_of_four
from cdvqa.sparsity.selection.threshold import Ranking, count_zeros, select_each

Pattern = Literal["unstructured", "2:4", "block16x1", "structured"]
BLOCK = 16  # rows: one instruction's fp32 values


class Part(NamedTuple):
    """A matrix of a structure, and the axis of its units: 0, a unit is some of its rows; 1, some of its columns."""

    name: str
    axis: int


class Structure(NamedTuple):
    """What `structured` prunes in one layer: the heads of an attention, or the neurons of a feed-forward block."""

    name: str
    number: int
    """Heads, or neurons."""
    parts: tuple[Part, ...]
    """Heads: the rows of query, key and value and the columns of the output. Neurons: rows, then columns."""


class UnitGroup(NamedTuple):
    """Units that are ranked together."""

    share: float
    """Share of zeros over the units, 0 to 1."""
    spreads: dict[str, Spread]
    """Where they are in each of their matrices, by matrix name."""

    def norms(self, values: Mapping[str, Tensor]) -> Tensor:
        """L2 norm of each unit (units,) over all its matrices; `values`, by matrix name, are weights or importance."""
        sums = [spread.sums(values[name].detach().float().square()) for name, spread in self.spreads.items()]
        return torch.stack(sums).sum(0).sqrt()

    def first(self, importance: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> Tensor:
        """Which units the first mask keeps (bool): ranked by (importance, norm, index), ⌊s·n + ½⌋ are pruned."""
        scores, norms = self.norms(importance), self.norms(weights)
        ((rule,),) = select_each([Ranking([scores], count_zeros(self.share, scores.numel()), [norms])])
        return rule.mask(scores, norms)


def unit_groups(
    pattern: Pattern, weights: Mapping[str, Tensor], shares: Mapping[str, float], structures: Sequence[Structure]
) -> list[UnitGroup]:
    """The units of `block16x1` and `structured`; matrices that are in none of them are not pruned.

    Args:
        pattern: one of the two.
        weights: the matrices that may be masked.
        shares: share of zeros of each.
        structures: of the backbone.

    Raises:
        InputError: a backbone without heads and neurons, or a structure that does not fit its matrices.
    """
    if pattern == "block16x1":
        return [UnitGroup(shares[name], {name: Spread(BLOCK)}) for name, weight in weights.items() if weight.dim() == 2]
    if not structures:
        raise InputError(
            "--model.sparsity.pattern structured: this backbone has no attention heads or neurons to prune"
        )
    found = []
    for structure in structures:
        spreads = {}
        for name, axis in structure.parts:
            length = weights[name].shape[axis]
            if length % structure.number:
                raise InputError(f"{structure.name}: {length} of {name} are no multiple of {structure.number}")
            spreads[name] = Spread(length // structure.number, axis)
        found.append(UnitGroup(shares[structure.parts[0].name], spreads))
    return found


def patterned_masks(
    pattern: Pattern,
    importance: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    shares: Mapping[str, float],
    structures: Sequence[Structure] = (),
) -> dict[str, Tensor]:
    """The first masks of a pattern (bool by name, True = kept); a matrix that it does not prune is kept whole.

    Args:
        pattern: any but `unstructured`.
        importance: what ranks the weights, by matrix name.
        weights: the matrices that may be masked.
        shares: share of zeros of each; `2:4` has its own.
        structures: of the backbone.
    """
    kept = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()}
    if pattern == "2:4":
        return kept | {name: two_of_four(importance[name], w) for name, w in weights.items() if w.dim() == 2}
    for group in unit_groups(pattern, weights, shares, structures):
        units = group.first(importance, weights)
        kept |= {name: spread.expand(units, weights[name]).clone() for name, spread in group.spreads.items()}
    return kept
