"""Which state of a run is kept as its result."""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning import Callback
from pytorch_lightning.utilities import rank_zero_info

from cdvqa.runs.folder import Run
from cdvqa.sparsity import Subnetwork


class KeepSelected(Callback):
    """Write the network file from the very state that a validation has just scored, whenever it scores best.

    With `selection: last`, and for runs without any training (OMP), the state at the end is written instead.
    The mask that was evaluated is thus the mask that is saved.

    Args:
        run: the run's files.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.best: float | None = None
        self.step: int | None = None
        self._latest: float | None = None

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        self._latest = accuracy = float(trainer.callback_metrics["val/accuracy/all"])
        if pl_module.protocol.selection != "last" and (self.best is None or accuracy > self.best):
            self.best, self.step = accuracy, trainer.global_step
            self._write(trainer, pl_module)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        accuracy = self.best
        if accuracy is None:
            self.step, accuracy = trainer.global_step, self._latest
            self._write(trainer, pl_module)
        if accuracy is not None:
            for logger in trainer.loggers:
                logger.log_metrics({"hp/val_accuracy": accuracy}, step=trainer.global_step)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "step": self.step, "latest": self._latest}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.step, self._latest = state_dict["best"], state_dict["step"], state_dict["latest"]

    def _write(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if not trainer.is_global_zero:
            return
        network = Subnetwork.from_model(pl_module.backbone, pl_module.metadata() | {"step": self.step})
        path = self.run.subnetwork if network.masks else self.run.model
        network.save(path)
        rank_zero_info(f"kept the network of step {self.step}: {path}")
