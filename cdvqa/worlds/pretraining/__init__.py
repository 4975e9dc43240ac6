"""How each kind of small model that ships for `scenes` is taught."""

from cdvqa.worlds.pretraining.images import MplugLearner
from cdvqa.worlds.pretraining.learner import Learner
from cdvqa.worlds.pretraining.questions import ANSWERS, Asked, ask_balanced
from cdvqa.worlds.pretraining.regions import LxmertLearner, VisualBertLearner

__all__ = ["ANSWERS", "Asked", "Learner", "LxmertLearner", "MplugLearner", "VisualBertLearner", "ask_balanced"]
