"""Callbacks decide when something happens; what happens is written elsewhere."""

from cdvqa.callbacks.checkpoint import LastCheckpoint, WholeFiles
from cdvqa.callbacks.finite import FiniteCheck
from cdvqa.callbacks.lineage import RunRecord
from cdvqa.callbacks.predictions import Predictions
from cdvqa.callbacks.progress import EpochLine, ProgressLine
from cdvqa.callbacks.selection import KeepSelected
from cdvqa.callbacks.thresholds import ThresholdReset
from cdvqa.callbacks.training_log import TrainingLog

__all__ = [
    "EpochLine",
    "FiniteCheck",
    "KeepSelected",
    "LastCheckpoint",
    "Predictions",
    "ProgressLine",
    "RunRecord",
    "ThresholdReset",
    "TrainingLog",
    "WholeFiles",
]
