"""Answer files in the evaluation server's format."""

from typing import Any

import pytorch_lightning as pl
import torch.distributed as dist
from pytorch_lightning import Callback

from cdvqa.artefacts import write_json
from cdvqa.errors import InputError
from cdvqa.runs import Run


class Predictions(Callback):
    """Collect every answer of a test or predict pass; write `predictions/<split>.json`, complete and without doubles.

    Args:
        run: the run's files.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.answers: dict[int, list[tuple[int, str]]] = {}

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        pairs = zip(batch.question_id.tolist(), outputs, strict=True)
        self.answers.setdefault(dataloader_idx, []).extend(pairs)

    on_predict_batch_end = on_test_batch_end

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        for index, split in enumerate(pl_module.split_names):
            gathered = gather(self.answers.pop(index, []))
            if trainer.is_global_zero:
                wanted = trainer.datamodule.question_ids(split)  # type: ignore[attr-defined]
                write_json(self.run.predictions(split), ordered(gathered, wanted, split))

    on_predict_epoch_end = on_test_epoch_end


def gather(pairs: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """The pairs of all processes, on every process."""
    if not (dist.is_available() and dist.is_initialized()):
        return pairs
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, pairs)
    return [pair for part in parts for pair in part]


def ordered(pairs: list[tuple[int, str]], question_ids: list[int], split: str) -> list[dict[str, Any]]:
    """`[{"question_id", "answer"}]` in the order of the questions.

    Raises:
        InputError: a question was answered twice or not at all.
    """
    answers = dict(pairs)
    if len(answers) != len(pairs):
        raise InputError(f"{split}: {len(pairs) - len(answers)} questions were answered more than once")
    if missing := [question for question in question_ids if question not in answers]:
        raise InputError(f"{split}: {len(missing)} questions were not answered, first {missing[0]}")
    return [{"question_id": question, "answer": answers[question]} for question in question_ids]
