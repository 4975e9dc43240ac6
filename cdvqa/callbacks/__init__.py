"""Callbacks decide when something happens; what happens is written elsewhere."""

from cdvqa.callbacks.checkpoint import LastCheckpoint, WholeFiles
from cdvqa.callbacks.dashboard import Dashboard
from cdvqa.callbacks.finite import FiniteCheck
from cdvqa.callbacks.mask_log import MaskLog
from cdvqa.callbacks.predictions import Predictions
from cdvqa.callbacks.progress import EpochLine, ProgressLine
from cdvqa.callbacks.record import RunRecord
from cdvqa.callbacks.samples import SampleQuestions
from cdvqa.callbacks.selection import KeepSelected
from cdvqa.callbacks.standard import run_callbacks
from cdvqa.callbacks.summary import Summary
from cdvqa.callbacks.thresholds import ThresholdReset
from cdvqa.callbacks.training_log import TrainingLog

__all__ = [
    "Dashboard",
    "EpochLine",
    "FiniteCheck",
    "KeepSelected",
    "LastCheckpoint",
    "MaskLog",
    "Predictions",
    "ProgressLine",
    "RunRecord",
    "SampleQuestions",
    "Summary",
    "ThresholdReset",
    "TrainingLog",
    "WholeFiles",
    "run_callbacks",
]
