"""The metric that accumulates accuracies over batches and processes."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class VQAAccuracy(Metric):
    """Mean score in percent: all questions, per answer type and per question type; exact on any number of processes.

    Args:
        question_types: names in the order of the indices given to `update`.
        answer_types: likewise.
    """

    full_state_update = False
    higher_is_better = True

    def __init__(self, question_types: Sequence[str], answer_types: Sequence[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.names = {"question": list(question_types), "answer": list(answer_types)}
        for kind, names in self.names.items():
            self.add_state(f"{kind}_score", torch.zeros(len(names), dtype=torch.float64), dist_reduce_fx="sum")
            self.add_state(f"{kind}_count", torch.zeros(len(names), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, score: Tensor, question_type: Tensor, answer_type: Tensor) -> None:
        """Add the scores (B,) in [0, 1] of questions of the given types, (B,) int64 each."""
        for kind, index in (("question", question_type), ("answer", answer_type)):
            getattr(self, f"{kind}_score").index_add_(0, index, score.to(torch.float64))
            getattr(self, f"{kind}_count").index_add_(0, index, torch.ones_like(index))

    def compute(self) -> dict[str, Any]:
        """{"all", <answer type>, …, "per_question_type": {…}, "n": {"all", <answer type>, …}}, no empty groups."""
        by_answer_type, n = self._means("answer")
        by_question_type, _ = self._means("question")
        total = sum(n.values())
        overall = {"all": percent(self.answer_score.sum().item(), total)} if total else {}  # type: ignore[operator,union-attr]
        return {**overall, **by_answer_type, "per_question_type": by_question_type, "n": {"all": total, **n}}

    def _means(self, kind: str) -> tuple[dict[str, float], dict[str, int]]:
        scores, counts = getattr(self, f"{kind}_score").tolist(), getattr(self, f"{kind}_count").tolist()
        groups = [(name, s, n) for name, s, n in zip(self.names[kind], scores, counts, strict=True) if n]
        return {name: percent(s, n) for name, s, n in groups}, {name: n for name, _, n in groups}


def percent(score: float, count: int) -> float:
    """Mean in percent, without the last digits, which depend on the order of the processes."""
    return round(100 * score / count, 10)
