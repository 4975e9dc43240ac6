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
