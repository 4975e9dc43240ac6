"""What a new rule changes in one matrix."""

import numpy as np
import torch
from torch import Tensor

from cdvqa.sparsity.masks.bits import pack, unpack
from cdvqa.sparsity.masks.mask import BinaryMask
from cdvqa.sparsity.selection.blocks import BLOCK, places, read_blocks, read_sizes
from cdvqa.sparsity.selection.threshold import Rule


def take_over(mask: BinaryMask, rule: Rule, weight: Tensor) -> Tensor:
    """Let `mask` follow `rule`, and bring the mask that it remembers from the latest selection up to date.

    Returns:
        int64 (3,) on the mask's device: the zeros of the live mask before, the zeros after, and the entries whose mask
        is not what the latest selection left.
    """
    recount = by_block if weight.device.type == "cpu" else at_once
    return recount(mask, rule, weight)


@torch.no_grad()
def at_once(mask: BinaryMask, rule: Rule, weight: Tensor) -> Tensor:
    """`take_over` on any device, without a wait for the host."""
    before = mask.mask(weight)
    mask.follow(rule)
    after = mask.mask(weight)
    flips = (unpack(mask.selected, weight.shape) != after).sum()
    mask.selected.copy_(pack(after))
    return torch.stack([(~before).sum(), (~after).sum(), flips])


@torch.no_grad()
def by_block(mask: BinaryMask, rule: Rule, weight: Tensor) -> Tensor:
    """`take_over` on the CPU: scores and weights are read once, and no mask is larger than a block."""
    before = Rule(mask.threshold.item(), mask.tie_weight.item(), int(mask.tie_index))
    mask.follow(rule)
    score, weight, packed = mask.score.detach().reshape(-1), weight.detach().reshape(-1), mask.selected.numpy()
    every_size, buffers = torch.empty(BLOCK, dtype=score.dtype).numpy(), np.empty((3, BLOCK), np.bool_)

    def keep(rule: Rule, values: np.ndarray, start: int) -> np.ndarray:
        kept, tied, above = buffers[:, : len(values)]
        np.greater(values, rule.threshold, out=kept)
        if np.equal(values, rule.threshold, out=tied).any():
            sizes = read_sizes(weight, start, every_size[: len(values)])
            # Up to the position of the last zero a tie must be larger to be kept; beyond it, as large will do.
            cut = min(max(rule.tie_index + 1 - start, 0), len(values))
            np.greater(sizes[:cut], rule.tie_weight, out=above[:cut])
            np.greater_equal(sizes[cut:], rule.tie_weight, out=above[cut:])
            kept |= np.logical_and(tied, above, out=above)
        return kept

    kept_before = kept_after = flips = 0
    for (_, start), values in read_blocks([score], places([score])):
        kept_before += int(np.count_nonzero(keep(before, values, start)))
        kept = keep(rule, values, start)
        kept_after += int(np.count_nonzero(kept))
        remembered = packed[start // 8 : (start + len(values) + 7) // 8]
        flips += int(np.count_nonzero(np.unpackbits(remembered, count=len(values)) != kept))
        remembered[:] = np.packbits(kept)
    return torch.tensor([len(score) - kept_before, len(score) - kept_after, flips])
