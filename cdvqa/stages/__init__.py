"""The three stages, as LightningModules."""

from cdvqa.stages.fine_tune import FineTune
from cdvqa.stages.further_fine_tune import FurtherFineTune
from cdvqa.stages.mask_train import MaskTrain
from cdvqa.stages.stage import VQAStage

__all__ = ["FineTune", "FurtherFineTune", "MaskTrain", "VQAStage"]
