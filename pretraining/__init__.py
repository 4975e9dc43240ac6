"""The training of the small models that ship for `scenes`."""

from pretraining.images import MplugLearner
from pretraining.learner import Learner
from pretraining.questions import ANSWERS, Asked, ask_balanced
from pretraining.regions import LxmertLearner, VisualBertLearner

__all__ = ["ANSWERS", "Asked", "Learner", "LxmertLearner", "MplugLearner", "VisualBertLearner", "ask_balanced"]
