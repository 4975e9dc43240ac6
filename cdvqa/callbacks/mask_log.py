"""What is logged of the masks beside their thresholds."""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning import Callback
from torch import Tensor

from cdvqa.runs.loggers import event_logs
from cdvqa.runs.pictures import heat_map
from cdvqa.sparsity import masks, sparsity_by_matrix
from cdvqa.sparsity.masks.mask import pack, unpack
from cdvqa.sparsity.statistics import common_zeros, overlap_by_modality


class MaskLog(Callback):
    """Log each matrix's sparsity, and how much the masks still have of the start, at each validation in training.

    Both are also drawn, layer by layer. What is pruned in one shot is drawn once.
    """

    def __init__(self) -> None:
        self._start: dict[str, Tensor] = {}  # the first masks, bit-packed; none in a run that began without this

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if trainer.global_step == 0:
            self._start = {name: pack(mask).cpu() for name, mask in masks(pl_module.backbone).items()}

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if trainer.state.fn == "fit":
            self._log(trainer, pl_module)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if not pl_module.trains:
            self._draw(trainer, "masks/sparsity", sparsity_by_matrix(masks(pl_module.backbone)), 1.0)

    def state_dict(self) -> dict[str, Any]:
        return {"start": self._start}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._start = state_dict["start"]

    def _log(self, trainer: pl.Trainer, pl_module: Any) -> None:
        live = masks(pl_module.backbone)
        shares = sparsity_by_matrix(live)
        values = {f"sparsity/matrix/{name}": share for name, share in shares.items()}
        self._draw(trainer, "masks/sparsity", shares, 1.0)
        if self._start:
            start = {name: unpack(self._start[name].to(mask.device), mask.shape) for name, mask in live.items()}
            overlaps = common_zeros(live, start)
            indices = overlap_by_modality(overlaps, pl_module.backbone.matrices())
            values |= {f"mask/overlap/{modality}": index for modality, index in indices.items()}
            changed = {name: 1 - overlap.agreement for name, overlap in overlaps.items()}
            self._draw(trainer, "masks/changed_since_start", changed, max(changed.values()))
        for logger in trainer.loggers:
            logger.log_metrics(values, step=trainer.global_step)

    def _draw(self, trainer: pl.Trainer, tag: str, shares: dict[str, float], most: float) -> None:
        for log in event_logs(trainer.loggers):
            log.log_picture(tag, heat_map(shares, most), trainer.global_step)
