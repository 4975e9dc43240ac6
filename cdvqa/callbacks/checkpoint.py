"""The checkpoint that an interrupted run goes on from."""

import math
from collections.abc import Callable
from typing import Any, cast

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.utilities import rank_zero_warn

from cdvqa.callbacks.training_log import ends_step
from cdvqa.data.loaders import TrainingLoader
from cdvqa.distributed.processes import gather
from cdvqa.errors import InputError
from cdvqa.files import write_atomically
from cdvqa.runs.folder import Run
from cdvqa.runs.loggers import MetricsLog

PARTS = ("state_dict", "loops", "callbacks", "loader", "generators", "metrics_bytes")  # of our own checkpoints


class WholeFiles(TorchCheckpointIO):
    """Checkpoints that are whole or absent. Lightning copies its own from the folder for temporary files."""

    def load_checkpoint(self, path: Any, *args: Any, **options: Any) -> dict[str, Any]:
        """Read a checkpoint as data, never as code.

        Raises:
            InputError: it is cut off, damaged, or of another program.
        """
        try:
            checkpoint = super().load_checkpoint(path, *args, **options)
        except (OSError, MemoryError):
            raise
        except Exception as error:  # torch names no base of what it raises at a broken file
            reason = f"no checkpoint of cdvqa, or a broken one ({type(error).__name__})"
            raise InputError(f"{path}: {reason}; give another, or start again with --overwrite") from error
        missing = [part for part in PARTS if not isinstance(checkpoint, dict) or part not in checkpoint]
        if missing:
            raise InputError(f"{path}: no checkpoint of cdvqa: it has no {missing[0]}")
        return checkpoint

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        with write_atomically(path) as temporary, temporary.open("wb") as file:
            torch.save(checkpoint, file)


class LastCheckpoint(Checkpoint):
    """One checkpoint, overwritten at the end of every epoch; written before the first step too.

    It also holds the training loader's position, the random generators of every process (dropout goes on where it
    stopped) and the length of `metrics.csv`, which a resumed run cuts there: what was logged after the checkpoint is
    logged again.

    Args:
        run: the run's files.
        every: optimiser steps between checkpoints in the middle of an epoch; None for none there.
    """

    def __init__(self, run: Run, every: int | None = None) -> None:
        self.run = run
        self.every = every
        self.step: int | None = None  # of the checkpoint on disk
        self.after_first: Callable[[], None] | None = None  # called once there is something to resume
        self._due = False
        self._resumed: dict[str, Any] | None = None  # the part of a checkpoint that waits for the training to start

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if self._resumed is None:
            self._save(trainer)
            if self.after_first is not None and trainer.is_global_zero:
                self.after_first()
            return
        # Lightning restores loaders too, but not one that it had to make earlier to count the steps of the schedule.
        loader(trainer).load_state_dict(self._resumed["loader"])
        states = self._resumed["generators"]
        if len(states) == trainer.world_size:
            restore(states[trainer.global_rank], pl_module.device)
        else:
            rank_zero_warn(
                f"{self.run.checkpoint} is of {len(states)} processes and {trainer.world_size} go on: dropout will not "
                "be what it would have been"
            )

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if not ends_step(trainer, batch_idx):
            return
        self._due |= self.every is not None and trainer.global_step % self.every == 0
        if self._due and not self._validation_may_follow(trainer, batch_idx):
            self._save(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if self._due and trainer.state.fn == "fit" and not trainer.is_last_batch:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._save(trainer)

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["loader"] = loader(trainer).state_dict()
        checkpoint["generators"] = gather([generators(pl_module.device)])
        # Before step 0 is saved the rows may be those of a run that this one replaces.
        rows = 0 if self.step is None else sum(logger.flush() for logger in metrics_logs(trainer))
        checkpoint["metrics_bytes"] = rows

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn != "fit":
            return
        self.step = checkpoint["global_step"]
        self._resumed = {key: checkpoint[key] for key in ("loader", "generators")}
        for logger in metrics_logs(trainer):
            logger.cut(checkpoint["metrics_bytes"])

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Add to the error how the run is resumed."""
        if self.step is not None and self.run.exists:
            exception.add_note(f"saved up to step {self.step}, go on with --ckpt_path last")

    def _save(self, trainer: pl.Trainer) -> None:
        trainer.save_checkpoint(self.run.checkpoint, weights_only=False)
        self.step, self._due = trainer.global_step, False

    def _validation_may_follow(self, trainer: pl.Trainer, batch_idx: int) -> bool:
        """Whether a validation may come next, for which a checkpoint waits: a run resumed before it would skip it."""
        every = trainer.val_check_batch or math.inf
        batch = trainer.fit_loop.total_batch_idx if trainer.check_val_every_n_epoch is None else batch_idx
        return trainer.is_last_batch or (batch + 1) % every == 0


def loader(trainer: pl.Trainer) -> TrainingLoader:
    """The loader of the training questions."""
    return cast(TrainingLoader, trainer.train_dataloader)


def metrics_logs(trainer: pl.Trainer) -> list[MetricsLog]:
    """The run's `metrics.csv`, if it has one."""
    return [logger for logger in trainer.loggers if isinstance(logger, MetricsLog)]


def generators(device: torch.device) -> dict[str, torch.Tensor]:
    """State of this process's random generators; nothing in training draws from Python's or numpy's."""
    states = {"cpu": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def restore(states: dict[str, torch.Tensor], device: torch.device) -> None:
    """Set this process's random generators to `states`."""
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)
