"""Answer files in the evaluation server's format."""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning import Callback
from pytorch_lightning.utilities import rank_zero_warn

from cdvqa.data.answers.normalisation import normalise_answer
from cdvqa.distributed.processes import gather
from cdvqa.files import write_json
from cdvqa.messages import say
from cdvqa.runs.folder import Run


class Predictions(Callback):
    """Collect every answer of a test or predict pass; write `predictions/<name>.json`, complete and without duplicates.

    The name is a split's, or that of the file of plain questions.

    Args:
        run: the files beside the network that answers.
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
        for index, name in enumerate(pl_module.split_names):
            gathered = gather(self.answers.pop(index, []))
            if trainer.is_global_zero:
                wanted = pl_module.facts.question_id[name].tolist()
                if (trainer.limit_test_batches, trainer.limit_predict_batches) != (1.0, 1.0):
                    answered = {question for question, _ in gathered}
                    wanted = [question for question in wanted if question in answered]
                path = self.run.predictions(name)
                write_json(path, ordered(normalised(gathered), wanted))
                say(f"{path}: {len(wanted):,} answers", "answers", file=str(path), answers=len(wanted))

    on_predict_epoch_end = on_test_epoch_end


def normalised(pairs: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """Answers as the official evaluation normalises them; says so if that changes any.

    It changes none from a vocabulary that was counted here, only those of a foreign vocabulary or free text.
    """
    written = [(question, normalise_answer(answer)) for question, answer in pairs]
    changed = [(old, new) for (_, old), (_, new) in zip(pairs, written, strict=True) if old != new]
    if changed:
        old, new = changed[0]
        rank_zero_warn(f"{len(changed)} answers are written normalised, the first {old!r} as {new!r}")
    return written


def ordered(pairs: list[tuple[int, str]], question_ids: list[int]) -> list[dict[str, Any]]:
    """`[{"question_id", "answer"}]` in the order of the questions."""
    answers = dict(pairs)
    return [{"question_id": question, "answer": answers[question]} for question in question_ids]
