"""A few questions with their images, as TensorBoard shows them."""

from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from pytorch_lightning import Callback
from pytorch_lightning.utilities import rank_zero_warn

from cdvqa.data.batch import VQABatch
from cdvqa.data.handshake import DataFacts
from cdvqa.data.visual.image_files import picture_paths
from cdvqa.distributed.processes import gather
from cdvqa.errors import InputError
from cdvqa.metrics import vqa_score
from cdvqa.runs.loggers import event_logs
from cdvqa.runs.pictures import Sample, sheet

SAMPLES = 8
MOST = 3  # answers of the prior


class SampleQuestions(Callback):
    """Draw eight questions of a split at each validation in training, and of each split at a test.

    They are spread evenly over the split, the same ones in every run. Prior: of the question's type, in training.
    """

    def __init__(self) -> None:
        self._found: dict[str, list[tuple[int, Sample]]] = {}

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if trainer.loggers:
            split = pl_module.facts.splits[dataloader_idx]
            self._found.setdefault(split, []).extend(samples(pl_module.facts, split, batch, outputs))

    on_test_batch_end = on_validation_batch_end

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        for split in sorted(self._found):
            self._draw(trainer, pl_module.facts.images, split)

    on_test_end = on_validation_end

    def _draw(self, trainer: pl.Trainer, folder: Path, split: str) -> None:
        found = dict(gather(self._found.pop(split)))
        for log in event_logs(trainer.loggers) if trainer.is_global_zero and found else ():
            picture = sheet([found[key] for key in sorted(found)], paths(folder))
            log.log_picture(f"samples/{split}", picture, trainer.global_step)


def samples(facts: DataFacts, split: str, batch: VQABatch, predictions: Sequence[str]) -> list[tuple[int, Sample]]:
    """The samples of a split that are among the questions of a batch, with their positions in it."""
    chosen = positions(facts, split)
    ids = batch.question_id.tolist()
    return [
        (position, sample(facts, batch, row, int(facts.image_id[split][position]), predictions[row]))
        for row, question in enumerate(ids)
        if (position := chosen.get(question)) is not None
    ]


def positions(facts: DataFacts, split: str) -> dict[int, int]:
    """The positions of a split's samples in it, by question id."""
    questions = facts.question_id[split]
    spread = np.linspace(0, len(questions) - 1, min(SAMPLES, len(questions))).round().astype(int)
    return {int(questions[position]): int(position) for position in spread}


def sample(facts: DataFacts, batch: VQABatch, row: int, image_id: int, prediction: str) -> Sample:
    """One question of a batch, as the model got it, and what was answered."""
    assert batch.input_ids is not None and batch.answers is not None
    boxes: list[list[float]] = []
    if batch.boxes is not None:
        real = slice(None) if batch.region_mask is None else batch.region_mask[row]
        boxes = batch.boxes[row][real].tolist()
    prior: list[tuple[str, float]] = []
    if batch.prior is not None:
        top = batch.prior[row].float().topk(min(MOST, batch.prior.shape[1]))
        prior = [(facts.answers[i], p) for p, i in zip(top.values.tolist(), top.indices.tolist(), strict=True) if p > 0]
    return Sample(
        question=facts.tokenizer.decode(batch.input_ids[row].tolist()),
        image_id=image_id,
        boxes=boxes,
        answers=Counter(batch.answers[row]).most_common(MOST),
        prior=prior,
        prediction=prediction,
        score=vqa_score(prediction, batch.answers[row]),
    )


@cache
def paths(folder: Path) -> dict[int, Path]:
    """The images in a folder; none where it cannot be read, which is no reason to end a training."""
    try:
        return picture_paths(folder)
    except InputError as error:
        rank_zero_warn(f"samples are drawn without images: {error}")
        return {}
