"""The callbacks that every run has, in their order."""

from typing import Any

from pytorch_lightning import Callback

from cdvqa.callbacks.checkpoint import LastCheckpoint
from cdvqa.callbacks.dashboard import Dashboard
from cdvqa.callbacks.finite import FiniteCheck
from cdvqa.callbacks.mask_log import MaskLog
from cdvqa.callbacks.predictions import Predictions
from cdvqa.callbacks.record import RunRecord
from cdvqa.callbacks.samples import SampleQuestions
from cdvqa.callbacks.selection import KeepSelected
from cdvqa.callbacks.thresholds import ThresholdReset
from cdvqa.callbacks.training_log import TrainingLog
from cdvqa.runs.folder import Run
from cdvqa.runs.lock import RunLock


def run_callbacks(
    run: Run, stage: Any, config: str, entries: dict[str, Any], every: int | None, lock: RunLock | None
) -> list[Callback]:
    """The callbacks of a stage's run, in their order.

    Args:
        run: its files.
        stage: what is trained.
        config, entries, lock: see `RunRecord`.
        every: optimiser steps between checkpoints in the middle of an epoch; None for none there.
    """
    kept, last = KeepSelected(run), LastCheckpoint(run, every)
    masks: list[Callback] = []
    if stage.stage == 2:  # what a validation has scored is logged before `KeepSelected` may reset it
        masks = [*([ThresholdReset(stage.sparsity.reset_every)] if stage.trains else []), MaskLog()]
    record = RunRecord(run, config, entries, kept, last, lock)
    shown = [Predictions(run), Dashboard(), SampleQuestions()]
    return [FiniteCheck(), *masks, TrainingLog(), kept, record, *shown, last]
