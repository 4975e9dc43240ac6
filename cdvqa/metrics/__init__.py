"""VQA accuracy: functions on predictions and annotations, and the metrics that stages use."""

from cdvqa.metrics.functional import (
    id_and_ood,
    official_vqa_accuracy,
    official_vqa_score,
    set_means,
    vqa_accuracy,
    vqa_score,
    vqa_vs_scores,
)
from cdvqa.metrics.metric import SplitAccuracy, VQAAccuracy

__all__ = [
    "SplitAccuracy",
    "VQAAccuracy",
    "id_and_ood",
    "official_vqa_accuracy",
    "official_vqa_score",
    "set_means",
    "vqa_accuracy",
    "vqa_score",
    "vqa_vs_scores",
]
