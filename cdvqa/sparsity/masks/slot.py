"""One buffer per masked matrix, for W ⊙ m and then for the gradient of its scores."""

from collections.abc import Callable
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor


class Slot:
    """The buffer of one matrix. It is derived from the matrix and its mask, so neither saved nor copied with them.

    It holds W ⊙ m from the first forward pass after an update until backward, then the gradient of the scores until the
    optimiser has used it; the two are never needed at once. Where they would be (a further micro-batch while the first
    one's gradient waits, or a graph that still needs an earlier W ⊙ m), the later one gets memory of its own.
    W ⊙ m, and the gradient after it, are valid until the next update; copy them to keep them longer.
    """

    def __init__(self) -> None:
        self._buffer: Tensor | None = None
        self._made_from: list[tuple[int, int]] | None = None
        self._readers: WeakSet[Any] = WeakSet()  # graph nodes that still have to run backward

    def __deepcopy__(self, memo: dict[int, Any]) -> "Slot":
        return Slot()

    def read(
        self, sources: tuple[Tensor, ...], write: Callable[[Tensor], object], gradient: Tensor | None = None
    ) -> Tensor:
        """W ⊙ m, rebuilt only if a source has changed: the buffer if that is free, or else fresh memory.

        Args:
            sources: all that W ⊙ m is made from, the weight first.
            write: writes W ⊙ m into a tensor like the weight.
            gradient: the gradient that waits for the optimiser, if there is one.
        """
        made_from = [(source.data_ptr(), source._version) for source in sources]
        if gradient is not None or (self._readers and made_from != self._made_from):
            out = torch.empty_like(sources[0])
            write(out)
            return out
        out = self._place(sources[0])
        if made_from != self._made_from:
            self._made_from = None  # should the writing fail
            write(out)
            self._made_from = made_from
        return out

    def holds(self, masked: Tensor) -> bool:
        """Whether `masked` is the buffer, not memory of its own."""
        return masked is self._buffer

    def await_backward(self, node: Any) -> None:
        """Leave the buffer as it is until `node` has run backward or is freed with its graph."""
        self._readers.add(node)

    def release(self, node: Any, weight: Tensor) -> Tensor | None:
        """The buffer, free for the gradient, if `node` is the last to run backward."""
        self._made_from = None  # the scores are about to change, and a fused optimiser does not say so
        if node not in self._readers:  # backward for a second time
            return None
        self._readers.discard(node)
        return None if self._readers else self._place(weight)

    def _place(self, weight: Tensor) -> Tensor:
        """The buffer, rebuilt where it does not fit the weight."""
        buffer = self._buffer
        if buffer is None or buffer.dtype != weight.dtype or buffer.device != weight.device:
            with torch.inference_mode(False):  # or training could not use what an evaluation made
                self._buffer = buffer = torch.empty_like(weight)
            self._made_from = None
        return buffer


class StraightThrough(torch.autograd.Function):
    """W ⊙ m forward; backward the straight-through estimate ∂L/∂m̂ = W ⊙ ∂L/∂(W⊙m), and nothing for W."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, score: Tensor, masked: Tensor, slot: Slot | None) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.score_dtype = score.dtype
        ctx.slot = slot if slot is not None and slot.holds(masked) else None
        if ctx.slot is not None:
            ctx.slot.await_backward(ctx)
        return masked.detach()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        buffer = None if ctx.slot is None else ctx.slot.release(ctx, weight)
        if buffer is None or buffer.dtype != ctx.score_dtype or torch.is_grad_enabled():
            return None, (weight * gradients[0]).to(ctx.score_dtype), None, None
        # Nothing else refers to this new view, so that autograd makes it `score.grad` without a copy.
        return None, torch.mul(weight, gradients[0], out=buffer).detach(), None, None


straight_through: Callable[[Tensor, Tensor, Tensor, Slot | None], Tensor] = StraightThrough.apply
