"""The checkpoint that an interrupted run goes on from."""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint

from cdvqa.metrics_log import MetricsLog
from cdvqa.runs import Run


class LastCheckpoint(ModelCheckpoint):
    """One checkpoint, overwritten at the end of every epoch; written before the first step too.

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

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        super().on_train_start(trainer, pl_module)
        if trainer.global_step == 0:
            trainer.save_checkpoint(self.run.checkpoint, weights_only=False)

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["metrics_bytes"] = self.run.metrics.stat().st_size if self.run.metrics.is_file() else 0

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, MetricsLog):
                logger.cut(checkpoint["metrics_bytes"])
