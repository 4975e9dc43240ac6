"""Questions, answers and region features, from the official files to `VQABatch`.

The public names are imported on first use, so that reading a question file does not import PyTorch or Lightning.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cdvqa.data.answers.prior import QuestionTypePrior
    from cdvqa.data.answers.vocabulary import AnswerVocabulary, normalise_answer, soft_scores
    from cdvqa.data.batch import VQABatch
    from cdvqa.data.datamodule import VQADataModule
    from cdvqa.data.visual.features import RegionFeatures, write_features

__all__ = [
    "AnswerVocabulary",
    "QuestionTypePrior",
    "RegionFeatures",
    "VQABatch",
    "VQADataModule",
    "normalise_answer",
    "soft_scores",
    "write_features",
]

_HOME = {
    "AnswerVocabulary": "answers.vocabulary",
    "QuestionTypePrior": "answers.prior",
    "RegionFeatures": "visual.features",
    "VQABatch": "batch",
    "VQADataModule": "datamodule",
    "normalise_answer": "answers.vocabulary",
    "soft_scores": "answers.vocabulary",
    "write_features": "visual.features",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
