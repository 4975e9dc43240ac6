"""Masks that keep or prune several weights as one (blocks, attention heads, neurons), or two of each four."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from cdvqa.sparsity.masks.mask import UNPLACED, BinaryMask, Placement
from cdvqa.sparsity.masks.slot import Slot, straight_through


@dataclass(frozen=True)
class Spread:
    """Where the units of a group are in one matrix.

    Attributes:
        size: rows or columns of a unit.
        axis: 0, a unit is `size` rows; 1, it is `size` columns; None, it is `size` rows of one column, and the last
            block of a column may be short.
    """

    size: int
    axis: int | None = None

    def expand(self, values: Tensor, weight: Tensor) -> Tensor:
        """A value per unit as a value per weight, in the shape of `weight`; differentiable."""
        wide = values.repeat_interleave(self.size, 0)
        if self.axis is None:
            return wide[: weight.shape[0]]
        return (wide[:, None] if self.axis == 0 else wide[None]).expand(weight.shape)

    def sums(self, values: Tensor) -> Tensor:
        """The sum of a matrix's values over each unit: (units,), or (blocks of a column, columns) of blocks."""
        if self.axis is None:
            rows, columns = values.shape
            return functional.pad(values, (0, 0, 0, -rows % self.size)).view(-1, self.size, columns).sum(1)
        return values.sum(1 - self.axis).view(-1, self.size).sum(1)


class Units(BinaryMask):
    """Scores of units that are ranked together by (score, L2 norm of their weights, index).

    Args:
        score: one per unit, fp32.
        norm: L2 norm of each unit's weights, over all matrices that it is part of.
    """

    norm: Tensor

    def __init__(self, score: Tensor, norm: Tensor, threshold: float, placement: Placement, keep_ties: bool) -> None:
        super().__init__(score, threshold, placement, keep_ties)
        self.register_buffer("norm", norm)

    @property
    def kept(self) -> Tensor:
        """Which units are kept now (bool)."""
        return self.mask(self.norm)


class UnitMask(nn.Module):
    """A trained mask of one matrix: m = 1 where the unit is kept. The gradient of a unit's score is the sum over it.

    Args:
        units: shared by all matrices that the units are part of.
        spread: where they are in this one.
    """

    def __init__(self, units: Units, spread: Spread, placement: Placement = UNPLACED) -> None:
        super().__init__()
        self.placement, self.spread = placement, spread
        self.units = units

    @property
    def score(self) -> nn.Parameter:
        return self.units.score

    def mask(self, weight: Tensor) -> Tensor:
        """The live mask (bool, True = kept)."""
        return self.spread.expand(self.units.kept, weight).contiguous()

    def forward(self, weight: Tensor) -> Tensor:
        masked = torch.where(self.mask(weight), weight, 0)
        return straight_through(weight, self.spread.expand(self.score, weight), masked, None)


class TwoOfFour(nn.Module):
    """A trained mask that keeps at most two of each four neighbours in a row; it changes only at a reset.

    Args:
        score: real-valued mask m̂ of the weight's shape, fp32.
        weight: the weight, which ranks tied scores.
    """

    kept: Tensor

    def __init__(self, score: Tensor, weight: Tensor, placement: Placement = UNPLACED) -> None:
        super().__init__()
        self.placement = placement
        self.score = nn.Parameter(score)
        self.slot = Slot()
        self.register_buffer("kept", two_of_four(score, weight))

    def mask(self, weight: Tensor) -> Tensor:
        """The mask of the latest reset (bool, True = kept)."""
        return self.kept

    def forward(self, weight: Tensor) -> Tensor:
        zero, slot = weight.new_zeros(()), None
        if torch.compiler.is_compiling():
            masked = torch.where(self.kept, weight, zero)
        else:
            slot = self.slot
            sources = (weight, self.kept)
            masked = slot.read(sources, lambda out: torch.where(self.kept, weight, zero, out=out), self.score.grad)
        return straight_through(weight, self.score, masked, slot)

    @torch.no_grad()
    def reselect(self, weight: Tensor) -> None:
        """Keep what ranks highest now."""
        self.kept.copy_(two_of_four(self.score, weight))


@torch.no_grad()
def two_of_four(scores: Tensor, weight: Tensor) -> Tensor:
    """The two of each four neighbours in a row (rows, columns) that rank highest by (score, |weight|, index): bool.

    Of a last group of three, two are kept, and a shorter one is kept whole.
    """
    rows, columns = scores.shape
    fours = [
        functional.pad(values, (0, -columns % 4), value=-torch.inf).view(-1, 4)
        for values in (scores.detach(), weight.detach().abs().to(scores.dtype))
    ]
    score, size = (four.unbind(1) for four in fours)
    below = [torch.zeros_like(score[0], dtype=torch.int8) for _ in range(4)]  # how many of its group rank below each
    for first in range(4):
        for second in range(first + 1, 4):
            tied = (score[second] == score[first]) & (size[second] >= size[first])
            higher = (score[second] > score[first]) | tied
            below[second] += higher
            below[first] += ~higher
    return (torch.stack(below, 1) >= 2).view(rows, -1)[:, :columns].contiguous()
