"""Both VQA accuracies of one split, and of the question sets inside it."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from cdvqa.data.batch import VQABatch
from cdvqa.metrics.functional import official_vqa_score, vqa_score
from cdvqa.metrics.metric import VQAAccuracy


class SplitAccuracy(nn.Module):
    """The paper's accuracy (min(n/3, 1), raw strings) and the official leave-one-out one, side by side.

    Args:
        question_types: names in the order of `batch.question_type`.
        answer_types: names in the order of `batch.answer_type`.
        subsets: question ids of test sets inside the split, scored as well.
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

    def update(self, batch: VQABatch, predictions: Sequence[str]) -> None:
        """Score one answer string for each question of the batch."""
        assert batch.answers is not None and batch.question_type is not None and batch.answer_type is not None
        device = batch.question_type.device
        pairs = list(zip(predictions, batch.answers, strict=True))
        score = torch.tensor([vqa_score(p, a) for p, a in pairs], dtype=torch.float64, device=device)
        official = torch.tensor([official_vqa_score(p, a) for p, a in pairs], dtype=torch.float64, device=device)
        for i, rows in enumerate(self._rows(batch)):
            types = batch.question_type[rows], batch.answer_type[rows]
            self.accuracy[i].update(score[rows], *types)  # type: ignore[operator]
            self.official[i].update(official[rows], *types)  # type: ignore[operator]

    def results(self, name: str) -> dict[str, dict[str, Any]]:
        """Entries of `results.json`: the split called `name` and each of its sets."""
        entries = {}
        for set_name, accuracy, official in zip([name, *self.subsets], self.accuracy, self.official, strict=True):
            whole = official.compute()  # type: ignore[operator]
            groups = {group: value for group, value in whole.items() if group not in ("per_question_type", "n")}
            entries[set_name] = {**accuracy.compute(), "official": groups}  # type: ignore[operator]
        return entries

    def reset(self) -> None:
        """Reset all counts."""
        for metric in (*self.accuracy, *self.official):
            metric.reset()  # type: ignore[operator]

    def _rows(self, batch: VQABatch) -> list[Any]:
        ids = batch.question_id.tolist()
        inside = [[i for i, question in enumerate(ids) if question in members] for members in self.subsets.values()]
        return [
            slice(None),
            *(torch.tensor(rows, dtype=torch.long, device=batch.question_id.device) for rows in inside),
        ]
