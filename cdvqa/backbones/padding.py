"""Padding that no question of a batch needs."""

import torch
from torch import Tensor


def trim_padding(ids: Tensor | None, mask: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """Word pieces and their mask, both (B, T), cut to the longest question of the batch.

    What is padding in every question is attended to by none: no need to compute it. The first position, which models
    pool, always stays. Without a mask every position counts, and a compiler would rather have one length than many.
    """
    if ids is None or mask is None or torch.compiler.is_compiling():
        return ids, mask
    longest = max(1, int(mask.sum(dim=1).max()))
    return ids[:, :longest], mask[:, :longest]


def masked_mean(states: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over the positions of (B, N, H) that the mask (B, N) keeps; None keeps all."""
    if mask is None:
        return states.mean(dim=1)
    weights = mask.to(states.dtype)[..., None]
    return (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
