"""Where a run logs: `metrics.csv`, and TensorBoard's event files beside it."""

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger, TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only, rank_zero_warn
from torch.utils.tensorboard.summary import hparams

from cdvqa.files import naming_full_disk

HEADER = "step,metric,value\n"
SELECTED_ACCURACY = "hp/val_accuracy"  # of the selected network; runs that are never validated have none
DASHBOARD = {
    "cdvqa": {
        "loss": ["Multiline", ["train/loss/total", "train/loss/task", "train/loss/entropy"]],
        "accuracy": [
            "Multiline",
            ["val/accuracy/all", "val/accuracy/yes_no", "val/accuracy/number", "val/accuracy/other"],
        ],
        "sparsity": ["Multiline", ["sparsity/overall", "sparsity/language", "sparsity/vision", "sparsity/cross"]],
        "mask flips": ["Multiline", ["mask/flips/overall"]],
    }
}


class EventLog(TensorBoardLogger):
    """TensorBoard's events in the run folder itself.

    The trainer asks every logger for its writer before data and model are set up. That would leave an event file
    behind when they are wrong, so this one has no writer until something is logged.

    Args:
        folder: the run folder.
        step: at which everything is logged: the run's last step, for its test. None: as the trainer counts.
    """

    def __init__(self, folder: Path, step: int | None = None) -> None:
        super().__init__(folder, name="", version="", default_hp_metric=False)
        self.step = step
        self.opened = False
        threading.excepthook = once

    @property
    def experiment(self) -> Any:
        return super().experiment if self.opened else None

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._open()
        own = {name: value for name, value in metrics.items() if name != "epoch"}
        super().log_metrics(own, step if self.step is None else self.step)

    @rank_zero_only
    def log_settings(self, settings: Mapping[str, Any]) -> None:
        """Write the run's row of the HParams table; its accuracy is what was logged as `SELECTED_ACCURACY`, if any."""
        self._open()
        for summary in hparams(dict(settings), {SELECTED_ACCURACY: None}):
            self.experiment.file_writer.add_summary(summary)

    @rank_zero_only
    def save(self) -> None:
        if self.opened:
            super().save()

    def _open(self) -> None:
        if not self.opened:
            self.opened = True
            self.experiment.add_custom_scalars(DASHBOARD)


def once(failure: threading.ExceptHookArgs) -> None:
    """Report the exception that ended a thread, except the event writer's: it raises the same at its next call."""
    if type(failure.thread).__module__ != "tensorboard.summary.writer.event_file_writer":
        threading.__excepthook__(failure)


class MetricsLog(Logger):
    """`metrics.csv`: append `step,metric,value` lines to a file.

    Lightning's own CSV logger keeps all rows in memory, rewrites the file, and deletes it when a run is resumed.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """`run.json` and `config.yaml` hold them."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        lines = "".join(f"{step},{name},{float(value)!r}\n" for name, value in metrics.items() if name != "epoch")
        with naming_full_disk(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(lines if file.tell() else HEADER + lines)

    def flush(self) -> int:
        """Flush the file to disk and return its size in bytes; 0 if it does not exist."""
        if not self.path.is_file():
            return 0
        with self.path.open("rb+") as file:
            os.fsync(file.fileno())
        return self.path.stat().st_size

    @rank_zero_only
    def cut(self, size: int) -> None:
        """Cut the file at `size` bytes: what was logged after the last checkpoint will be logged again."""
        present = self.path.stat().st_size if self.path.is_file() else 0
        if present < size:
            rank_zero_warn(f"{self.path}: {size - present} bytes shorter than at the checkpoint; rows are missing")
        elif present > size:
            os.truncate(self.path, size)
