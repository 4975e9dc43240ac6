"""What an objective is given of a batch, and how much the batch counts in its optimiser step."""

from dataclasses import replace
from typing import Any, cast

import pytorch_lightning as pl
import torch

from cdvqa.backbones import Backbone, Output
from cdvqa.data.batch import VQABatch
from cdvqa.data.loaders import TrainingLoader
from cdvqa.distributed.processes import map_nested
from cdvqa.objectives import Objective, Progress
from cdvqa.stages.teacher import Teacher


def objective_inputs(
    needs: frozenset[str],
    batch: VQABatch,
    output: Output,
    backbone: Backbone,
    teacher: Teacher | None,
    dtype: torch.dtype,
) -> dict[str, Any]:
    """Logits, soft targets and the tensors in `needs`, by name; a tensor that is not there is left out.

    Args:
        needs: see `Objective`.
        batch: the questions.
        output: the backbone's output for them.
        backbone: run again for each view of the questions.
        teacher: run for its output.
        dtype: of the floating-point tensors, whatever the precision of the forward pass.
    """
    names = {"logits", "soft_target", *needs} - {"views"}
    # In one order on all processes, which may have to exchange them.
    known = {name: getattr(of, name) for of in (batch, output) for name in sorted(names) if hasattr(of, name)}
    if "teacher" in needs and teacher is not None:
        known["teacher"] = teacher(batch)
    if "views" in needs and batch.views is not None:
        known["views"] = {
            name: backbone(replace(batch, input_ids=words.input_ids, attention_mask=words.attention_mask))
            for name, words in batch.views.items()
        }
    return map_nested(known, lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor)  # type: ignore[no-any-return]


def progress(trainer: pl.Trainer) -> Progress:
    """How far the training is; one-shot pruning, which has no epoch, counts as the start of one."""
    steps = int(trainer.estimated_stepping_batches)
    return Progress(trainer.global_step, steps, trainer.current_epoch, max(trainer.max_epochs or 0, 1))


def step_weight(trainer: pl.Trainer, objective: Objective, generates: bool, counted: int, batch_idx: int) -> float:
    """What to multiply a batch's mean loss by, so that a step is the mean over all questions that count in it.

    Lightning divides by the number of accumulated batches, and DDP by that of processes.

    Args:
        trainer: it has the loader of the training questions.
        objective: which of them count.
        generates: whether all do, for a generative backbone.
        counted: those of this batch.
        batch_idx: its number in the epoch.
    """
    loader, accumulated = cast(TrainingLoader, trainer.train_dataloader), trainer.accumulate_grad_batches
    batches = int(trainer.num_training_batches)  # fewer than the loader's under limit_train_batches
    labels = loader.labels_of_step(batch_idx, accumulated, batches)
    of_step = len(labels) if generates else objective.counted(labels)
    processes = 1 if objective.batch_dependent else trainer.world_size
    return counted * accumulated * processes / max(1, of_step)
