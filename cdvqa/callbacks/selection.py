"""Which state of a run is kept as its result."""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning import Callback

from cdvqa.objectives.state import save_objective
from cdvqa.runs.folder import Run
from cdvqa.runs.loggers import SELECTED_ACCURACY
from cdvqa.sparsity import binary_masks, reset_thresholds, sparsity_by_modality
from cdvqa.stages.loading import take_network


class KeepSelected(Callback):
    """Write the network file from the state that a validation has just scored, whenever it scores best.

    The mask that was evaluated is the mask that is saved. With `selection: last`, or where no validation took place,
    the state at the end is validated and written. Under `tie_break: exact` thresholds are re-selected before each of
    these validations, so every file has the exact sparsity.

    Without `reset_before_evaluation` evaluation is the authors': also before the first step, and each new best state is
    followed by a reset.

    Args:
        run: the run's files.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.best: float | None = None
        self.step: int | None = None
        self.zeros = 0  # in the matrices of the network that was written
        self.realised: dict[str, float] = {}  # its share of zeros by modality, and `overall`
        self._latest: float | None = None
        self._validated: int | None = None  # step of the latest validation

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if trainer.global_step == 0 and evaluates_as_authors(pl_module):
            self._validate(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        self._latest = accuracy = float(trainer.callback_metrics["val/accuracy/all"])
        self._validated = trainer.global_step
        if pl_module.protocol.selection != "last" and (self.best is None or accuracy > self.best):
            self.best = accuracy
            self._write(trainer, pl_module)
            if evaluates_as_authors(pl_module) and binary_masks(pl_module.backbone):
                reset_thresholds(pl_module.backbone)

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if self.best is None and self._validated != trainer.global_step:
            self._validate(trainer)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if pl_module.trains:  # Lightning ends no training that goes on from a checkpoint of its last step
            self.on_train_end(trainer, pl_module)
        accuracy = self.best
        if accuracy is None:
            accuracy = self._latest
            # There may have been nothing to validate on.
            if pl_module.protocol.tie_break == "exact" and binary_masks(pl_module.backbone):
                reset_thresholds(pl_module.backbone)
            self._write(trainer, pl_module)
        if accuracy is not None:
            for logger in trainer.loggers:
                logger.log_metrics({SELECTED_ACCURACY: accuracy}, step=trainer.global_step)

    @property
    def latest(self) -> float | None:
        """Accuracy of the latest validation; None where there was none."""
        return self._latest

    @property
    def validated(self) -> int | None:
        """Step of the latest validation."""
        return self._validated

    def state_dict(self) -> dict[str, Any]:
        names = ("best", "step", "zeros", "realised", "_latest", "_validated")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.__dict__ |= state_dict

    def _validate(self, trainer: pl.Trainer) -> None:
        """A validation at a moment of our own."""
        trainer.validating = True
        trainer.fit_loop.epoch_loop.val_loop.run()
        trainer.training = True

    def _write(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.step = trainer.global_step
        if not trainer.is_global_zero:
            return
        metadata = pl_module.metadata() | {"step": self.step}
        network = take_network(pl_module.backbone, pl_module.objective, metadata)
        path = self.run.subnetwork if network.masks else self.run.model
        network.save(path)
        self.zeros = sum(mask.numel() - int(mask.count_nonzero()) for mask in network.masks.values())
        if network.masks:
            self.realised = sparsity_by_modality(network.masks, pl_module.backbone.matrices())
        if pl_module.trains or not pl_module.objective.fresh_in_each_stage:
            save_objective(pl_module.objective, path.parent)


def evaluates_as_authors(stage: Any) -> bool:
    """Whether an evaluation takes the masks as they are, as in the authors' code."""
    return not (stage.protocol.reset_before_evaluation or stage.protocol.tie_break == "exact")
