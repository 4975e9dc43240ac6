"""The checkpoint that an interrupted run goes on from."""

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from cdvqa.loggers import MetricsLog
from cdvqa.runs import Run


class LastCheckpoint(ModelCheckpoint):
    """One checkpoint, overwritten at the end of every epoch; written before the first step too.

    It also holds the state of the random generator (dropout goes on where it stopped) and the length of
    `metrics.csv`, which a resumed run cuts there: what was logged after the checkpoint is logged again.

    Args:
        run: the run's files.
    """

    def __init__(self, run: Run) -> None:
        super().__init__(
            dirpath=run.checkpoint.parent,
            filename=run.checkpoint.stem,
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )
        self.run = run
        self._random_state: torch.Tensor | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        super().on_train_start(trainer, pl_module)
        if self._random_state is not None:
            torch.set_rng_state(self._random_state)
        elif trainer.global_step == 0:
            trainer.save_checkpoint(self.run.checkpoint, weights_only=False)

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["random_state"] = torch.get_rng_state()
        checkpoint["metrics_bytes"] = self.run.metrics.stat().st_size if self.run.metrics.is_file() else 0

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn != "fit":
            return
        self._random_state = checkpoint["random_state"]
        for logger in trainer.loggers:
            if isinstance(logger, MetricsLog):
                logger.cut(checkpoint["metrics_bytes"])
