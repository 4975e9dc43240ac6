"""Questions, answers and region features, from the official files to `VQABatch`.

The public names are imported on first use, so that reading a question file does not import PyTorch or Lightning.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cdvqa.data.answers.normalisation import normalise_answer as normalise_answer
    from cdvqa.data.answers.prior import QuestionTypePrior as QuestionTypePrior
    from cdvqa.data.answers.vocabulary import AnswerVocabulary as AnswerVocabulary
    from cdvqa.data.answers.vocabulary import soft_scores as soft_scores
    from cdvqa.data.batch import VQABatch as VQABatch
    from cdvqa.data.datamodule import VQADataModule as VQADataModule
    from cdvqa.data.visual.features import RegionFeatures as RegionFeatures
    from cdvqa.data.visual.features import write_features as write_features

_HOME = {
    "AnswerVocabulary": "answers.vocabulary",
    "QuestionTypePrior": "answers.prior",
    "RegionFeatures": "visual.features",
    "VQABatch": "batch",
    "VQADataModule": "datamodule",
    "normalise_answer": "answers.normalisation",
    "soft_scores": "answers.vocabulary",
    "write_features": "visual.features",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
