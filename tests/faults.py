"""Callbacks with which a test makes something go wrong, or looks closer, in the middle of a training."""

import os
import signal
import time
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback


class At(Callback):
    """Does its harm once, when optimiser step number `step` is about to be computed, on one process."""

    def __init__(self, step: int, rank: int = 0) -> None:
        self.step = step
        self.rank = rank

    def is_now(self, trainer: Any) -> bool:
        return trainer.global_step == self.step - 1 and trainer.global_rank == self.rank


class SpoilLoss(At):
    """Makes the loss NaN."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if self.is_now(trainer):
            batch.region_features.fill_(float("nan"))


class SpoilGradient(At):
    """Makes one gradient infinite and leaves the loss alone."""

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        if self.is_now(trainer):
            next(p for p in pl_module.backbone.parameters() if p.grad is not None).grad.fill_(float("inf"))


class CutFeatures(At):
    """Cuts the feature file off behind its first kilobyte."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if self.is_now(trainer):
            os.truncate(Path(trainer.datamodule.features_file), 1024)


class Hold(At):
    """Stands still, so that whoever kills the run is never too late; at no step if it is told none."""

    def __init__(self, step: int = 0, rank: int = 0) -> None:
        super().__init__(step, rank)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if self.is_now(trainer):
            time.sleep(240)


class Interrupt(At):
    """What Ctrl-C does."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if self.is_now(trainer):
            raise KeyboardInterrupt


class RecordHandler(At):
    """Writes down who handles the signal with which SLURM announces its time limit."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if self.is_now(trainer):
            Path("handler").write_text(str(signal.getsignal(signal.SIGUSR1)))


class Terminate(At):
    """Sends SIGTERM to this process, or to the group that all processes of the run are in."""

    def __init__(self, step: int, rank: int = 0, group: bool = False) -> None:
        super().__init__(step, rank)
        self.group = group

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if self.is_now(trainer):
            send, target = (os.killpg, os.getpgrp()) if self.group else (os.kill, os.getpid())
            send(target, signal.SIGTERM)
