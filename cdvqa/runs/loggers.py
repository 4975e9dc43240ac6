"""Where a run logs: `metrics.csv`, and TensorBoard's event files beside it."""

import os
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL.Image import Image
from pytorch_lightning.loggers import Logger, TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only, rank_zero_warn
from torch.utils.tensorboard.summary import hparams

from cdvqa.files import naming_full_disk
from cdvqa.runs.dashboard import Layout, layout
from cdvqa.runs.folder import Run

HEADER = "step,metric,value\n"
SELECTED_ACCURACY = "hp/val_accuracy"  # of the selected network; runs that are never validated have none
ONLY_IN_FILE = "sparsity/matrix/"  # the events have them as one picture


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
        self.layout: Layout = {}  # of the page of custom scalars
        threading.excepthook = report_once

    @property
    def experiment(self) -> Any:
        return super().experiment if self.opened else None

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._open()
        own = {name: value for name, value in metrics.items() if name != "epoch" and not name.startswith(ONLY_IN_FILE)}
        super().log_metrics(own, self._step(step))

    @rank_zero_only
    def log_settings(self, settings: Mapping[str, Any]) -> None:
        """Write the run's row of the HParams table. `cdvqa board` decides on the columns, which all runs share."""
        self._open()
        _, *session = hparams(dict(settings), {})
        for summary in session:
            self.experiment.file_writer.add_summary(summary)

    @rank_zero_only
    def log_picture(self, tag: str, picture: Image, step: int) -> None:
        """Write a picture in RGB."""
        self._open()
        self.experiment.add_image(tag, np.asarray(picture), self._step(step), dataformats="HWC")

    @rank_zero_only
    def log_page(self, tag: str, text: str, step: int) -> None:
        """Write a page of Markdown."""
        self._open()
        self.experiment.add_text(tag, text, self._step(step))

    @rank_zero_only
    def save(self) -> None:
        """Write what is buffered. Lightning's own would add an empty hparams.yaml; `run.json` has the settings."""
        if self.opened:
            self.experiment.flush()

    def _open(self) -> None:
        if not self.opened:
            self.opened = True
            self.experiment.add_custom_scalars(self.layout or layout())

    def _step(self, step: int | None) -> int | None:
        return step if self.step is None else self.step


def report_once(failure: threading.ExceptHookArgs) -> None:
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


def own_loggers(run: Run, command: str) -> list[Logger]:
    """What every run logs to: `fit` to the events and `metrics.csv`, `test` to the events; others log nothing."""
    match command:
        case "fit":
            return [EventLog(run.folder), MetricsLog(run.metrics)]
        case "test":
            return [EventLog(run.folder, run.steps)]
    return []


def added_loggers(given: Iterable[Logger] | Logger | bool | None) -> list[Logger]:
    """The loggers that `trainer.logger` names; true stands for the run's own."""
    if given is None or isinstance(given, bool):
        return []
    return [given] if isinstance(given, Logger) else list(given)


def is_own(logger: Logger) -> bool:
    """Whether every run has this logger, rather than `trainer.logger` added it."""
    return isinstance(logger, EventLog | MetricsLog)


def event_logs(loggers: Iterable[Logger]) -> list[EventLog]:
    """Those of these loggers that write TensorBoard's events."""
    return [logger for logger in loggers if isinstance(logger, EventLog)]
