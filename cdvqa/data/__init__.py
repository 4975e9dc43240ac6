"""Questions, answers and region features, from the official files to `VQABatch`.

The public names are imported on first use, so that reading a question file does not import PyTorch or Lightning.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cdvqa.data.answers import AnswerVocabulary, normalise_answer, soft_scores
    from cdvqa.data.batch import VQABatch
    from cdvqa.data.datamodule import VQADataModule
    from cdvqa.data.features import RegionFeatures, write_features
    from cdvqa.data.prior import QuestionTypePrior

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
    "AnswerVocabulary": "answers",
    "QuestionTypePrior": "prior",
    "RegionFeatures": "features",
    "VQABatch": "batch",
    "VQADataModule": "datamodule",
    "normalise_answer": "answers",
    "soft_scores": "answers",
    "write_features": "features",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
