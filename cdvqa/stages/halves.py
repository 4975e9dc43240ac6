"""Optimiser steps of two halves, of which the first is for the objective's own parameters alone."""

from typing import Any

import torch
from torch import Tensor, nn

from cdvqa.objectives import Loss
from cdvqa.stages.inputs import step_weight


def first_half(stage: Any, inputs: dict[str, Any], batch_idx: int) -> Loss:
    """Step the objective's own parameters by the clipped gradient of `objective.first`.

    The optimiser and its state are those of the whole step, as in the authors' code of GGE. Nothing here counts as an
    optimiser step of the run: masks, schedule and checkpoints see one step a batch.

    Args:
        stage: with an optimiser; its objective has a `first`.
        inputs: of the objective.
        batch_idx: number of the batch in the epoch.

    Returns:
        The first half's terms, and as total a zero whose gradient is the clipped one: added to the loss of the second
        half, it carries the gradient over.
    """
    with torch.autocast(stage.device.type, enabled=False):
        first = stage.objective.first(**inputs)
        trained = [parameter for parameter in stage.objective.parameters() if parameter.requires_grad]
        loss = first.total * step_weight(stage, first.count, batch_idx)
        gradients = torch.autograd.grad(loss, trained, allow_unused=True, materialize_grads=True)
        for parameter, gradient in zip(trained, gradients, strict=True):
            parameter.grad = stage.trainer.strategy.reduce(gradient, reduce_op="mean")
        if stage.objective_clip is not None:
            nn.utils.clip_grad_norm_(trained, stage.objective_clip)
        kept = [parameter.grad for parameter in trained]
        stage.trainer.optimizers[0].step()  # parameters without a gradient stay; it frees the gradients afterwards
        return first._replace(total=sum(map(carried, kept, trained), loss.new_zeros(())))


def carried(gradient: Tensor, parameter: Tensor) -> Tensor:
    """0, with this gradient with respect to a parameter."""
    return (gradient * (parameter - parameter.detach())).sum()
