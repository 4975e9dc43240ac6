"""Callbacks decide when something happens; what happens is written elsewhere."""

from cdvqa.callbacks.checkpoint import LastCheckpoint
from cdvqa.callbacks.lineage import RunRecord
from cdvqa.callbacks.predictions import Predictions
from cdvqa.callbacks.selection import KeepSelected
from cdvqa.callbacks.thresholds import ThresholdReset

__all__ = ["KeepSelected", "LastCheckpoint", "Predictions", "RunRecord", "ThresholdReset"]
