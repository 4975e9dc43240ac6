"""What the processes of a run exchange, and how they end."""

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch import Tensor

Part = TypeVar("Part")


def gather(parts: list[Part]) -> list[Part]:
    """The parts of all processes, in the order of the processes, on every process; all have to call it."""
    if not (dist.is_available() and dist.is_initialized()):
        return parts
    lists: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(lists, parts)
    return [part for of_process in lists for part in of_process]


def end_at_sigterm(trainer: pl.Trainer) -> None:
    """Let SIGTERM end this process, and those that it started, at once: what is saved is whole at any moment.

    Lightning's own handler broadcasts. Where the other processes are in another collective, that one never returns.
    """
    connector = trainer._signal_connector

    def register() -> None:
        connector._original_handlers = {signal.SIGTERM: signal.getsignal(signal.SIGTERM)}
        if threading.current_thread() is threading.main_thread():
            # Python runs no handler while a collective blocks, the default action needs none.
            started = getattr(trainer.strategy.launcher, "procs", None)
            signal.signal(signal.SIGTERM, end if started else signal.SIG_DFL)

    def end(number: int, frame: FrameType | None) -> None:
        trainer.strategy.launcher.kill(signal.SIGTERM)  # type: ignore[union-attr]
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)

    connector.register_signal_handlers = register  # type: ignore[method-assign]


def all_rows(tensor: Tensor) -> Tensor:
    """The rows (B, …) of all processes in the order of the global batch, (B · processes, …), with their gradient.

    Training deals rows in turn, so row i of the global batch is on process i modulo their number. The gradient that
    each process then forms of a loss over all rows is its part of the whole, times the number of processes, by which
    DDP divides.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return tensor
    gather_tensors: Callable[[Tensor], Tensor] = _Gather.apply
    return gather_tensors(tensor).transpose(0, 1).flatten(0, 1)


class _Gather(torch.autograd.Function):
    """A tensor (…) of every process, (processes, …); backward sums what all processes have for a part of it."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        gathered = tensor.new_empty(dist.get_world_size(), *tensor.shape)
        dist.all_gather(list(gathered), tensor.contiguous())
        return gathered

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        whole = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(whole)
        return whole[dist.get_rank()]


def map_nested(data: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same nested dictionaries and named tuples, with each tensor in them changed."""
    if isinstance(data, Tensor):
        return change(data)
    if isinstance(data, dict):
        return {name: map_nested(part, change) for name, part in data.items()}
    if isinstance(data, tuple) and hasattr(data, "_fields"):
        return type(data)(*(map_nested(part, change) for part in data))
    return data
