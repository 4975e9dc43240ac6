"""What is logged of training."""

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning import Callback

from cdvqa.distributed.processes import gather


def ends_step(trainer: pl.Trainer, batch_idx: int) -> bool:
    """Whether the optimiser steps on this batch, rather than accumulating its gradient."""
    return trainer.is_last_batch or (batch_idx + 1) % trainer.accumulate_grad_batches == 0


def logs_step(trainer: pl.Trainer, batch_idx: int) -> bool:
    """Whether the optimiser steps on this batch, and the step is one that is logged."""
    every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
    return every > 0 and ends_step(trainer, batch_idx) and trainer.global_step % every == 0


class TrainingLog(Callback):
    """Log what the stage reports of a step, every `log_every_n_steps`, and its loss's mean at the end of each epoch.

    Lightning would log a step only after a checkpoint of that step, and a resumed run would lack the row; and it would
    forget the part of an epoch's mean that came before the checkpoint.
    """

    def __init__(self) -> None:
        self._loss: torch.Tensor | None = None  # sum over the questions counted so far in the epoch, on this process
        self._questions = 0

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        self._process, self._processes = trainer.global_rank, trainer.world_size

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        loss = pl_module.report["train/loss/total"].double() * pl_module.counted
        self._loss = loss if self._loss is None else self._loss.to(loss) + loss
        self._questions += pl_module.counted
        if logs_step(trainer, batch_idx):
            self._log(trainer, {name: float(value) for name, value in pl_module.report.items()})

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        losses, questions = zip(*gather([self._sums()]), strict=True)
        self._log(trainer, {"train/loss/epoch": sum(losses) / max(1, sum(questions))})
        self._loss, self._questions = None, 0

    def state_dict(self) -> dict[str, Any]:
        return {"sums": gather([self._sums()])}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        sums = state_dict["sums"]
        if len(sums) != self._processes:  # the first process takes up all
            sums = [tuple(map(sum, zip(*sums, strict=True)))] + [(0.0, 0)] * (self._processes - 1)
        loss, self._questions = sums[self._process]
        self._loss = torch.tensor(loss, dtype=torch.float64)

    def _sums(self) -> tuple[float, int]:
        return (0.0 if self._loss is None else float(self._loss)), self._questions

    def _log(self, trainer: pl.Trainer, values: dict[str, float]) -> None:
        for logger in trainer.loggers:  # steps are counted from 0 here, as Lightning does for the validations
            logger.log_metrics(values, step=trainer.global_step - 1)
