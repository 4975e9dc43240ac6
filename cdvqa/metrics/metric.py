"""Accuracies that accumulate over batches and processes."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from cdvqa.data.batch import VQABatch
from cdvqa.metrics.functional import official_vqa_score, vqa_score


class VQAAccuracy(Metric):
    """Mean score in percent: all questions, per answer type and per question type; exact on any number of processes.

    Args:
        question_types: names in the order of the indices given to `update`.
        answer_types: likewise.
    """

    full_state_update = False
    higher_is_better = True
    answer_score: Tensor

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
        """{"all", <answer type>, …, "per_question_type": {…}, "n": {"all", <answer type>, …}}, without empty groups."""
        by_answer_type, n = self._means("answer")
        by_question_type, _ = self._means("question")
        total = sum(n.values())
        overall = {"all": percent(self.answer_score.sum().item(), total)} if total else {}
        return {**overall, **by_answer_type, "per_question_type": by_question_type, "n": {"all": total, **n}}

    def _means(self, kind: str) -> tuple[dict[str, float], dict[str, int]]:
        scores, counts = getattr(self, f"{kind}_score").tolist(), getattr(self, f"{kind}_count").tolist()
        groups = [(name, s, n) for name, s, n in zip(self.names[kind], scores, counts, strict=True) if n]
        return {name: percent(s, n) for name, s, n in groups}, {name: n for name, _, n in groups}


def percent(score: float, count: int) -> float:
    """Mean in percent, rounded to 10 digits: further ones depend on the order in which processes are summed."""
    return round(100 * score / count, 10)


class SplitAccuracy(nn.Module):
    """The paper's accuracy (min(n/3, 1), raw strings) and the official one (leave-one-out) of a split and its subsets.

    Args:
        question_types: names in the order of `batch.question_type`.
        answer_types: names in the order of `batch.answer_type`.
        subsets: question ids of test sets inside the split, by name; each is scored as well.
    """

    def __init__(
        self,
        question_types: Sequence[str],
        answer_types: Sequence[str],
        subsets: Mapping[str, set[int]] | None = None,
    ) -> None:
        super().__init__()
        self.subsets = dict(subsets or {})
        self.accuracy = nn.ModuleList(VQAAccuracy(question_types, answer_types) for _ in range(1 + len(self.subsets)))
        self.official = nn.ModuleList(VQAAccuracy(question_types, answer_types) for _ in range(1 + len(self.subsets)))

    def pairs(self) -> list[tuple[VQAAccuracy, VQAAccuracy]]:
        """The paper's and the official accuracy of the split, then of each subset."""
        return cast(list[tuple[VQAAccuracy, VQAAccuracy]], list(zip(self.accuracy, self.official, strict=True)))

    def update(self, batch: VQABatch, predictions: Sequence[str]) -> None:
        """Score one answer string for each question of the batch."""
        assert batch.answers is not None and batch.question_type is not None and batch.answer_type is not None
        device = batch.question_type.device
        answered = list(zip(predictions, batch.answers, strict=True))
        score = torch.tensor([vqa_score(p, a) for p, a in answered], dtype=torch.float64, device=device)
        official_score = torch.tensor(
            [official_vqa_score(p, a) for p, a in answered], dtype=torch.float64, device=device
        )
        ids = batch.question_id.tolist()
        inside = [[i for i, question in enumerate(ids) if question in members] for members in self.subsets.values()]
        all_rows: list[Any] = [slice(None), *(torch.tensor(rows, dtype=torch.long, device=device) for rows in inside)]
        for rows, (accuracy, official) in zip(all_rows, self.pairs(), strict=True):
            types = batch.question_type[rows], batch.answer_type[rows]
            accuracy.update(score[rows], *types)
            official.update(official_score[rows], *types)

    def results(self, name: str) -> dict[str, dict[str, Any]]:
        """Entries of `results.json`: the split called `name` and each of its subsets."""
        entries = {}
        for set_name, (accuracy, official) in zip([name, *self.subsets], self.pairs(), strict=True):
            whole = official.compute()
            groups = {group: value for group, value in whole.items() if group not in ("per_question_type", "n")}
            entries[set_name] = {**accuracy.compute(), "official": groups}
        return entries

    def reset(self) -> None:
        """Reset all counts."""
        for accuracy, official in self.pairs():
            accuracy.reset()
            official.reset()
