"""An independent reading of the exact rule: sort everything, prune from the bottom."""

from fractions import Fraction
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from cdvqa.sparsity import BinaryMask
from cdvqa.sparsity.masks.matrices import masked_matrices


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


class PlainMask(torch.autograd.Function):
    """W ⊙ m in memory of its own at every access; backward W ⊙ ∂L/∂(W⊙m), accumulated by autograd alone."""

    @staticmethod
    def forward(ctx, weight, score, kept):
        ctx.save_for_backward(weight)
        return torch.where(kept, weight, 0)

    @staticmethod
    def backward(ctx, gradient):
        (weight,) = ctx.saved_tensors
        return None, (weight * gradient).to(torch.promote_types(weight.dtype, torch.float32)), None


def use_plain_masks(model: nn.Module) -> nn.Module:
    """Let every trained mask of the model go the plain way, embeddings too; returns the model."""
    for matrix in masked_matrices(model):
        if isinstance(matrix.mask, BinaryMask):
            matrix.mask.forward = partial(_plain, matrix.mask)
        if isinstance(matrix.module, nn.Embedding):
            matrix.module.forward = partial(nn.Embedding.forward, matrix.module)
    return model


def _plain(mask: BinaryMask, weight: Tensor) -> Tensor:
    return PlainMask.apply(weight, mask.score, mask.mask(weight))
