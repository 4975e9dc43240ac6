"""What TensorBoard shows beside the numbers in `metrics.csv`."""

import resource
import sys
import time
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning import Callback

from cdvqa.callbacks.training_log import logs_step
from cdvqa.metrics import id_and_ood
from cdvqa.runs.dashboard import GPU_MEMORY, ID_ACCURACY, LEARNING_RATE, OOD_ACCURACY, PROCESS_MEMORY, SPEED, layout
from cdvqa.runs.loggers import MetricsLog, event_logs

GIB = 2**30
MAXRSS = 1 if sys.platform == "darwin" else 1024  # bytes in the unit of ru_maxrss


class Dashboard(Callback):
    """Lay out TensorBoard's page; log the learning rate, speed and memory of training, and a test in two numbers.

    None of it goes to `metrics.csv`, which a resumed run has to repeat byte by byte.
    """

    def __init__(self) -> None:
        self._rate = 0.0
        self._began, self._questions = time.monotonic(), 0  # of the steps since the latest that was logged

    def on_fit_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        for log in event_logs(trainer.loggers):
            log.layout = layout(pl_module.facts.question_types, pl_module.facts.answer_types)

    on_test_start = on_fit_start

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._began, self._questions = time.monotonic(), 0

    on_validation_end = on_train_epoch_start  # the time of a validation is not that of the next steps

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: Any, optimizer: Any) -> None:
        self._rate = float(optimizer.param_groups[0]["lr"])

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._questions += len(batch) * trainer.world_size
        if logs_step(trainer, batch_idx):
            now = time.monotonic()
            speed = self._questions / max(now - self._began, 1e-9)
            self._log(trainer, {LEARNING_RATE: self._rate, SPEED: speed, **memory(pl_module.device)})
            self._began, self._questions = now, 0

    def on_test_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        found = id_and_ood(pl_module.test_results, pl_module.test_means)
        tags = {"id": ID_ACCURACY, "ood": OOD_ACCURACY}
        self._log(trainer, {tags[kind]: accuracy for kind, accuracy in found.items()})

    def _log(self, trainer: pl.Trainer, values: dict[str, float]) -> None:
        for logger in trainer.loggers:
            if not isinstance(logger, MetricsLog):
                logger.log_metrics(values, step=max(trainer.global_step - 1, 0))


def memory(device: torch.device) -> dict[str, float]:
    """The most memory used so far, in GiB: of this process, and on its GPU."""
    used = {PROCESS_MEMORY: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS / GIB}
    return used | ({GPU_MEMORY: torch.cuda.max_memory_allocated(device) / GIB} if device.type == "cuda" else {})
