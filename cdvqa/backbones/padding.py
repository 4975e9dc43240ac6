"""Padded positions: cut off where the whole batch has none but these, and left out of means."""

import torch
from torch import Tensor


def trim_padding(ids: Tensor | None, mask: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """Word pieces and their mask, both (B, T), cut to the longest question of the batch.

    No position attends to padding, so the outputs stay the same. The first position, which models pool, always stays.
    Nothing is cut without a mask, as every position counts then, nor while compiling, as each length would need another
    compilation.
    """
    if ids is None or mask is None or torch.compiler.is_compiling():
        return ids, mask
    longest = max(1, int(mask.sum(dim=1).max()))
    return ids[:, :longest], mask[:, :longest]


def masked_mean(states: Tensor, mask: Tensor | None) -> Tensor:
    """Mean (B, H) of states (B, N, H) over the positions that the mask (B, N) keeps; None keeps all."""
    if mask is None:
        return states.mean(dim=1)
    weights = mask.to(states.dtype)[..., None]
    return (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
