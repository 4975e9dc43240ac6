"""When the masks' thresholds are re-selected."""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning import Callback

from cdvqa.callbacks.selection import evaluates_as_authors
from cdvqa.callbacks.training_log import ends_step
from cdvqa.sparsity import binary_masks, reset_thresholds, summarise


class ThresholdReset(Callback):
    """Re-select the thresholds every `every` optimiser steps, and before validations unless the authors' way is chosen.

    Sparsity by modality, thresholds and mask flips are logged at each reset.
    Every rank holds the same scores, so every rank selects the same thresholds.

    Args:
        every: t_m, in optimiser steps (not batches).
    """

    def __init__(self, every: int = 100) -> None:
        self.every = every

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if ends_step(trainer, batch_idx) and trainer.global_step % self.every == 0:
            self._reset(trainer, pl_module)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if trainer.state.fn == "fit" and not evaluates_as_authors(pl_module):
            self._reset(trainer, pl_module)

    def _reset(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if binary_masks(pl_module.backbone):
            values = summarise(reset_thresholds(pl_module.backbone))
            for logger in trainer.loggers:
                logger.log_metrics(values, step=trainer.global_step)
