"""Masks as parametrizations: linear layers and embeddings read W ⊙ m where they read `weight`."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from cdvqa.presets import TieBreak
from cdvqa.sparsity.masks.slot import Slot, straight_through
from cdvqa.sparsity.selection.threshold import Rule, levels, live_mask, outranks

_PIECE = 1 << 19
"""Entries of W ⊙ m written at a time: the search for ties finds them in the processor's cache."""


@dataclass(frozen=True)
class Placement:
    """Position of a matrix among all masked matrices, and how its sparsity is assigned."""

    order: int
    """Position in the backbone's list; decides ties between the matrices of a group."""
    modality: str = ""
    group: int = 0
    """Number of its group in the assignment: the matrices that are ranked together."""
    share: float = math.nan
    """Share of zeros of that group."""
    tie_break: TieBreak = "exact"


UNPLACED = Placement(0)


class BinaryMask(nn.Module):
    """A trained mask: m = 1 where the score ranks above the last zero of the latest selection (paper Eq. 2).

    Until the first reset the rule is score > `threshold`. The rule lives in buffers, so a checkpoint restores the same
    mask, and is written in place.

    Args:
        score: real-valued mask m̂ of the weight's shape, fp32; becomes the parameter `score`.
        threshold: the initial φ.
        keep_ties: until the first reset, keep the entries whose score is the threshold.
    """

    threshold: Tensor
    tie_weight: Tensor
    tie_index: Tensor
    selected: Tensor

    def __init__(
        self, score: Tensor, threshold: float = 0.01, placement: Placement = UNPLACED, keep_ties: bool = False
    ) -> None:
        super().__init__()
        self.placement = placement
        self.score = nn.Parameter(score)
        self.slot, self.levels = Slot(), Slot()
        self.register_buffer("threshold", score.new_tensor(threshold))
        self.register_buffer("tie_weight", score.new_tensor(-1.0 if keep_ties else math.inf))  # every |weight| is > -1
        self.register_buffer("tie_index", torch.tensor(-1, device=score.device))
        # The mask of the latest selection, one bit an entry: flips are counted from it, also after a resume.
        kept = score.detach() >= self.threshold if keep_ties else score.detach() > self.threshold
        self.register_buffer("selected", pack(kept))

    @property
    def rule(self) -> tuple[Tensor, Tensor, Tensor]:
        """Score, |weight| and position of the last zero."""
        return self.threshold, self.tie_weight, self.tie_index

    def mask(self, weight: Tensor) -> Tensor:
        """The live mask (bool, True = kept) for the unmasked `weight`."""
        score, weight = self.score.detach(), weight.detach()
        if score.device.type == "cpu" or score.dtype != weight.dtype or torch.compiler.is_compiling():
            return live_mask(score, weight, *self.rule)
        # A GPU decides the ties once for each selection; a step then only compares.
        sources = (weight, *self.rule)
        return score > self.levels.read(sources, lambda out: out.copy_(levels(score.shape, *sources)))

    def rows(self, weight: Tensor, ids: Tensor) -> Tensor:
        """The live mask of the rows `ids` of a matrix, (*ids, columns), without looking at the others."""
        score = self.score.detach()[ids]
        position = ids[..., None] * weight.shape[1] + torch.arange(weight.shape[1], device=weight.device)
        above = outranks(weight.detach()[ids], position, self.tie_weight, self.tie_index)
        return (score > self.threshold) | ((score == self.threshold) & above)

    def forward(self, weight: Tensor) -> Tensor:
        if torch.compiler.is_compiling():  # the compiler knows no slots, and fuses plain operations
            masked, slot = torch.where(self.mask(weight), weight, 0), None
        else:
            slot = self.slot
            sources = (weight, self.score.detach(), *self.rule)
            masked = slot.read(sources, lambda out: self.write(out, weight), self.score.grad)
        return straight_through(weight, self.score, masked, slot)

    def write(self, out: Tensor, weight: Tensor) -> None:
        """Write W ⊙ m into memory like the weight's."""
        tensors = (out, weight, self.score.detach())
        if weight.device.type == "cpu" and all(t.dtype == self.score.dtype and t.is_contiguous() for t in tensors):
            write_masked(*tensors, *self.rule)
        else:
            torch.where(self.mask(weight), weight, weight.new_zeros(()), out=out)

    @torch.no_grad()
    def follow(self, rule: Rule) -> None:
        """Take over a newly selected rule, in place."""
        self.threshold.fill_(rule.threshold)
        self.tie_weight.fill_(rule.tie_weight)
        self.tie_index.fill_(rule.tie_index)


class FixedMask(nn.Module):
    """A constant mask: zeros stay zeros and get no gradient; kept weights train if they require a gradient.

    Args:
        kept: bool of the weight's shape, True = kept.
    """

    kept: Tensor

    def __init__(self, kept: Tensor, placement: Placement = UNPLACED) -> None:
        super().__init__()
        self.placement = placement
        self.register_buffer("kept", kept)
        self.slot = Slot()

    def mask(self, weight: Tensor) -> Tensor:
        """The mask; `weight` is unused; both kinds of masks have the same signature."""
        return self.kept

    def forward(self, weight: Tensor) -> Tensor:
        if weight.requires_grad or torch.compiler.is_compiling():
            return torch.where(self.kept, weight, 0)
        zero = weight.new_zeros(())
        return self.slot.read((weight, self.kept), lambda out: torch.where(self.kept, weight, zero, out=out))


# W ⊙ m, written into existing memory


def write_masked(
    out: Tensor, weight: Tensor, score: Tensor, threshold: Tensor, tie_weight: Tensor, tie_index: Tensor
) -> None:
    """On the CPU write `weight` where `live_mask` keeps it, and 0 elsewhere, in one pass, without a mask in between."""
    level, least, last = threshold.item(), tie_weight.item(), int(tie_index)
    start, ties = 0, torch.empty(min(_PIECE, score.numel()), dtype=score.dtype)
    for piece, values, scores in zip(*(t.view(-1).split(_PIECE) for t in (out, weight, score)), strict=True):
        # Writes values where scores > level, and 0 elsewhere, in one loop; it has no public name.
        torch.ops.aten.threshold_backward.grad_input(values, scores, level, grad_input=piece)
        if least < math.inf:
            # Into floats: torch's comparisons into bools take three times as long.
            tied = torch.eq(scores, level, out=ties[: len(scores)])
            if tied.sum():
                position = tied.nonzero().squeeze(1)
                kept = position[outranks(values[position], position, least, last - start)]
                piece[kept] = values[kept]
        start += len(piece)


# Masks at one bit an entry


def pack(mask: Tensor) -> Tensor:
    """uint8 of ⌈n/8⌉ bytes, the first entry in the highest bit (as `numpy.packbits`), on the mask's device."""
    mask = mask.detach().reshape(-1)
    return torch.from_numpy(np.packbits(mask.numpy())) if mask.device.type == "cpu" else pack_by_shifts(mask)


def unpack(packed: Tensor, shape: torch.Size | tuple[int, ...]) -> Tensor:
    """The bool mask of `shape` that `pack` packed."""
    entries = math.prod(shape)
    if packed.device.type == "cpu":
        bits = torch.from_numpy(np.unpackbits(packed.numpy(), count=entries).view(np.bool_))
    else:
        bits = unpack_by_shifts(packed)[:entries]
    return bits.reshape(shape)


def pack_by_shifts(mask: Tensor) -> Tensor:
    """`pack` of a 1-D mask where numpy cannot read it."""
    eights = functional.pad(mask.to(torch.uint8), (0, -len(mask) % 8)).view(-1, 8)
    return (eights << _shifts(mask)).sum(1, dtype=torch.uint8)


def unpack_by_shifts(packed: Tensor) -> Tensor:
    """Eight entries a byte, where numpy cannot read it."""
    return (packed[:, None] >> _shifts(packed) & 1).view(-1).bool()


def _shifts(like: Tensor) -> Tensor:
    return torch.arange(7, -1, -1, dtype=torch.uint8, device=like.device)
