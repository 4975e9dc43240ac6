"""An independent reading of the exact rule: sort everything, prune from the bottom."""

from fractions import Fraction

import numpy as np
import torch
from torch import Tensor


def zeros_asked(sparsity: str, weights: int) -> int:
    """⌊s·n + ½⌋ in exact arithmetic, `sparsity` being the decimal number as a user writes it."""
    return (2 * Fraction(sparsity) * weights + 1) // 2


def sorted_masks(scores: list[Tensor], weights: list[Tensor], zeros: int) -> list[Tensor]:
    """Masks that prune the `zeros` lowest entries by (score, |weight|, matrix, position), by one full sort."""
    score = np.concatenate([part.numpy().ravel() for part in scores])
    size = np.concatenate([np.abs(part.numpy().ravel()) for part in weights])
    kept = np.ones(len(score), dtype=bool)
    kept[np.lexsort((np.arange(len(score)), size, score))[:zeros]] = False
    ends = np.cumsum([part.numel() for part in scores])[:-1]
    return [
        torch.from_numpy(piece).reshape(part.shape) for piece, part in zip(np.split(kept, ends), scores, strict=True)
    ]
