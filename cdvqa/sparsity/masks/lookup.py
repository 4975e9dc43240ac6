"""Mask only those rows of an embedding that are looked up."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from cdvqa.sparsity.masks.mask import BinaryMask
from cdvqa.sparsity.masks.slot import Slot


def mask_rows_only(table: nn.Embedding) -> None:
    """Let the look-ups of a parametrized embedding mask only the rows they read; its `weight` is still W ⊙ m.

    This changes the class that parametrization made for this module alone, and that folding the mask removes.
    """
    if type(table).forward is nn.Embedding.forward and table.max_norm is None and not table.sparse:
        type(table).forward = _look_up  # type: ignore[assignment, method-assign]


def _look_up(table: nn.Embedding, ids: Tensor) -> Tensor:
    parametrizations: Any = table.parametrizations
    (mask,) = parametrizations.weight
    if torch.compiler.is_compiling() or not isinstance(mask, BinaryMask):
        return nn.Embedding.forward(table, ids)
    weight: Tensor = parametrizations.weight.original
    slot = mask.slot if mask.score.grad is None else None
    return _masked_rows(weight, mask.score, ids, mask.rows(weight, ids), table, slot)


class _MaskedRows(torch.autograd.Function):
    """The straight-through estimate as for any matrix: a row's gradients are summed first, then multiplied by W."""

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, score: Tensor, ids: Tensor, kept: Tensor, table: nn.Embedding, slot: Slot | None
    ) -> Tensor:
        ctx.save_for_backward(weight, ids)
        ctx.score_dtype, ctx.table, ctx.slot = score.dtype, table, slot
        if slot is not None:
            slot.await_backward(ctx)
        return torch.where(kept, functional.embedding(ids, weight), 0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, None, None, None, None]:
        weight, ids = ctx.saved_tensors
        by_frequency, padding = ctx.table.scale_grad_by_freq, ctx.table.padding_idx
        gradient = None if ctx.slot is None else ctx.slot.release(ctx, weight)
        if gradient is None or gradient.dtype != ctx.score_dtype:
            gradient = torch.empty_like(weight, dtype=ctx.score_dtype)
        sums = torch.ops.aten.embedding_dense_backward
        if weight.device.type != "cpu":  # all rows cost a GPU less than waiting for the number of those that were read
            every = sums(gradients[0], ids, len(weight), -1 if padding is None else padding, by_frequency)
            return None, torch.mul(weight, every, out=gradient).detach(), None, None, None, None
        rows, places = ids.unique(return_inverse=True)
        read = sums(gradients[0], places, len(rows), -1, by_frequency)
        if padding is not None:
            read[rows == padding] = 0
        gradient.zero_()[rows] = (weight[rows] * read).to(ctx.score_dtype)
        return None, gradient.detach(), None, None, None, None


_masked_rows: Callable[[Tensor, Tensor, Tensor, Tensor, nn.Embedding, Slot | None], Tensor] = _MaskedRows.apply
