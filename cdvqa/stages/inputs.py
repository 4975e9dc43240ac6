"""The inputs of an objective from a batch, and the weight of the batch in its optimiser step."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytorch_lightning as pl
import torch

from cdvqa.backbones import Output
from cdvqa.data.batch import VQABatch
from cdvqa.data.loaders import TrainingLoader
from cdvqa.distributed.processes import all_rows, map_nested
from cdvqa.objectives import Progress

if TYPE_CHECKING:  # it imports this module
    from cdvqa.stages.stage import VQAStage


def objective_inputs(stage: "VQAStage", batch: VQABatch, together: bool = False) -> dict[str, Any]:
    """The arguments of the stage's objective by name; for a generative backbone, those of `sequence`.

    Args:
        stage: its backbone, objective and teacher are used; a tensor that none of them has is left out.
        batch: this process's questions.
        together: gather the questions of all processes.
    """
    output: Output = stage.backbone(batch)
    if output.sequence is not None:
        return output.sequence._asdict() | {"logits": widened(stage, output.sequence.logits)}
    inputs: dict[str, Any] = widened(stage, needed(stage, batch, output))
    if together:
        inputs = map_nested(inputs, all_rows)
    if stage.objective.batch_dependent:
        seeds = np.random.SeedSequence((stage.facts.seed, stage.trainer.global_step))
        stage.objective.generator = torch.Generator().manual_seed(int(seeds.generate_state(1)[0]))
    if "progress" in stage.objective.needs:
        inputs["progress"] = progress(stage.trainer)
    return inputs


def widened(stage: "VQAStage", data: Any) -> Any:
    """The same with floating-point tensors in the stage's own type, whatever the precision of the forward pass."""
    return map_nested(data, lambda tensor: tensor.to(stage.dtype) if tensor.is_floating_point() else tensor)


def needed(stage: "VQAStage", batch: VQABatch, output: Output) -> dict[str, Any]:
    """Logits, soft targets and the tensors that the objective needs, by name."""
    names = {"logits", "soft_target", *stage.objective.needs} - {"views"}
    # In one order on all processes, which may have to exchange them.
    known = {name: getattr(of, name) for of in (batch, output) for name in sorted(names) if hasattr(of, name)}
    if "teacher" in names and stage.teacher is not None:
        known["teacher"] = stage.teacher(batch)
    if "views" in stage.objective.needs and batch.views is not None:
        known["views"] = {
            name: stage.backbone(replace(batch, input_ids=words.input_ids, attention_mask=words.attention_mask))
            for name, words in batch.views.items()
        }
    return known


def progress(trainer: pl.Trainer) -> Progress:
    """How far training is; one-shot pruning, which has no epoch, counts as the start of one."""
    steps = int(trainer.estimated_stepping_batches)
    return Progress(trainer.global_step, steps, trainer.current_epoch, max(trainer.max_epochs or 0, 1))


def step_weight(stage: "VQAStage", counted: int, batch_idx: int) -> float:
    """What to multiply a batch's mean loss by, so that a step is the mean over all questions that count in it.

    Lightning divides by the number of accumulated batches, and DDP by that of processes.

    Args:
        stage: its trainer has the loader of the training questions. Its objective decides which of them count; for a
            generative backbone all do.
        counted: questions of this batch that count.
        batch_idx: number of the batch in the epoch.
    """
    trainer = stage.trainer
    loader, accumulated = cast(TrainingLoader, trainer.train_dataloader), trainer.accumulate_grad_batches
    batches = int(trainer.num_training_batches)  # fewer than the loader's under limit_train_batches
    labels = loader.labels_of_step(batch_idx, accumulated, batches)
    of_step = len(labels) if stage.backbone.generates else stage.objective.counted(labels)
    processes = 1 if stage.objective.batch_dependent else trainer.world_size
    return counted * accumulated * processes / max(1, of_step)
