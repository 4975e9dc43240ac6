"""How a training shows on the terminal, and where there is none."""

import time
from shutil import get_terminal_size
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import RichProgressBar
from pytorch_lightning.callbacks.progress.rich_progress import RichProgressBarTheme
from rich.progress import BarColumn
from rich.table import Column


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
    """Print one line per epoch: loss, accuracy on the selecting split, seconds. For logs, where a bar is of no use."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._began = time.monotonic()  # a run that is resumed within an epoch does not start that epoch

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._began = time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if not trainer.is_global_zero:
            return
        shown = {"loss": "loss {:.4f}", "val/accuracy/all": "accuracy {:.2f}"}
        metrics = trainer.callback_metrics
        parts = [text.format(float(metrics[name])) for name, text in shown.items() if name in metrics]
        epochs = f"/{trainer.max_epochs}" if (trainer.max_epochs or 0) > 0 else ""
        seconds = time.monotonic() - self._began
        print(f"epoch {trainer.current_epoch + 1}{epochs}: {', '.join([*parts, f'{seconds:.1f} s'])}", flush=True)
