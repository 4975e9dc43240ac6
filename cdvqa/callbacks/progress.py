"""How a training shows on the terminal, and where there is none."""

import math
import time
from shutil import get_terminal_size
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import RichProgressBar
from pytorch_lightning.callbacks.progress.rich_progress import RichProgressBarTheme
from rich.progress import BarColumn
from rich.table import Column

from cdvqa.messages import duration, say


class ProgressLine(RichProgressBar):
    """Lightning's bar in one line: a bar of several lines erases what others print above it."""

    def __init__(self) -> None:
        super().__init__(theme=RichProgressBarTheme(metrics_format=".2f"))

    def configure_columns(self, trainer: pl.Trainer) -> list[Any]:
        columns = super().configure_columns(trainer)
        if get_terminal_size().columns < 100:  # numbers matter more than the bar itself
            columns = [column for column in columns if not isinstance(column, BarColumn)]
        for column in filter(None, [*columns, self._metric_component]):
            column._table_column = Column(no_wrap=True, overflow="ellipsis")
            if isinstance(column, BarColumn):
                column.bar_width = 12
        return columns

    def get_metrics(self, trainer: pl.Trainer, pl_module: Any) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        return {name.removeprefix("val/").removesuffix("/all"): value for name, value in metrics.items()}


class EpochLine(Callback):
    """A line per epoch, and at least one a minute, for logs: loss, accuracy on the selecting split, time, time left."""

    EVERY = 60.0  # seconds

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._began = self._said = time.monotonic()  # a run that is resumed within an epoch does not start that epoch
        self._start, self._first = self._began, share_done(trainer)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._began = time.monotonic()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.is_global_zero and time.monotonic() - self._said > self.EVERY and not trainer.is_last_batch:
            values = {"loss": float(pl_module.report["train/loss/total"])}
            self._say(trainer, "step", f", step {trainer.global_step:,}", values)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if trainer.is_global_zero:
            names = {"loss": "loss", "val/accuracy/all": "accuracy"}
            metrics = trainer.callback_metrics
            self._say(
                trainer, "epoch", "", {key: float(metrics[name]) for name, key in names.items() if name in metrics}
            )

    def _say(self, trainer: pl.Trainer, event: str, step: str, values: dict[str, float]) -> None:
        now = self._said = time.monotonic()
        epoch, epochs = trainer.current_epoch + 1, trainer.max_epochs if (trainer.max_epochs or 0) > 0 else None
        parts = [f"{name} {value:.4f}" if name == "loss" else f"{name} {value:.2f}" for name, value in values.items()]
        times = {"seconds": round(now - self._began, 1)}
        done = share_done(trainer)
        if done > self._first:
            times["seconds_left"] = round((now - self._start) * (1 - done) / (done - self._first), 1)
        left = f", about {duration(times['seconds_left'])} left" if times.get("seconds_left") else ""
        text = f"epoch {epoch}{f'/{epochs}' if epochs else ''}{step}: {', '.join([*parts, duration(times['seconds'])])}"
        say(text + left, event, epoch=epoch, epochs=epochs, step=trainer.global_step, **values, **times)


def share_done(trainer: pl.Trainer) -> float:
    """The share of the run's optimiser steps that are done; 0 where nobody knows how many there are."""
    steps = float(trainer.estimated_stepping_batches)
    return trainer.global_step / steps if 0 < steps < math.inf else 0.0
