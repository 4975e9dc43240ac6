"""What the processes of a run tell each other, and how they end."""

import os
import signal
import threading
from types import FrameType
from typing import Any, TypeVar

import pytorch_lightning as pl
import torch.distributed as dist

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
