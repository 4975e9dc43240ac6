"""W ⊙ m under a live mask, written into memory that is at hand."""

import math

import torch
from torch import Tensor

from cdvqa.sparsity.selection.threshold import live_mask

_PIECE = 1 << 19
"""Entries written at a time: the search for ties finds them in the processor's cache."""


def write_masked(
    out: Tensor, weight: Tensor, score: Tensor, threshold: Tensor, tie_weight: Tensor, tie_index: Tensor
) -> None:
    """Write `weight` where `live_mask` keeps it, and 0 elsewhere; on the CPU in one pass, without a mask in between."""
    tensors = (out, weight, score)
    plain = weight.device.type == "cpu" and all(t.dtype == score.dtype and t.is_contiguous() for t in tensors)
    if not plain:
        kept = live_mask(score, weight, threshold, tie_weight, tie_index)
        torch.where(kept, weight, weight.new_zeros(()), out=out)
        return
    level, least, last = threshold.item(), tie_weight.item(), int(tie_index)
    start, ties = 0, torch.empty(min(_PIECE, score.numel()), dtype=score.dtype)
    for piece, values, scores in zip(*(t.view(-1).split(_PIECE) for t in tensors), strict=True):
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


def outranks(weight: Tensor, position: Tensor, tie_weight: Tensor | float, tie_index: Tensor | int) -> Tensor:
    """Which entries, tied with the threshold, are kept: above the last zero by (|weight|, position)."""
    size = weight.abs()
    return (size > tie_weight) | ((size == tie_weight) & (position > tie_index))
