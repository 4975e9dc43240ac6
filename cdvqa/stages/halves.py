"""Optimiser steps of two halves: the first one changes the objective's own parameters alone."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from cdvqa.objectives import Loss
from cdvqa.stages.inputs import step_weight

if TYPE_CHECKING:  # it imports this module
    from cdvqa.stages.stage import VQAStage


def first_half(stage: "VQAStage", inputs: dict[str, Any], batch_idx: int) -> Loss:
    """Step the objective's own parameters by the clipped gradient of `objective.first`.

    The optimiser and its state are those of the whole step, as in the authors' code of GGE. This half does not count
    as an optimiser step of the run: masks, schedule and checkpoints see one step per batch.

    Args:
        stage: with an optimiser; its objective has a `first`.
        inputs: of the objective.
        batch_idx: number of the batch in the epoch.

    Returns:
        The first half's terms, with a total of 0 whose gradient is the clipped one: added to the loss of the second
        half, it passes the gradient on.
    """
    with torch.autocast(stage.device.type, enabled=False):
        assert stage.objective.first is not None
        first = stage.objective.first(**inputs)
        trained = [parameter for parameter in stage.objective.parameters() if parameter.requires_grad]
        loss = first.total * step_weight(stage, first.count, batch_idx)
        local = torch.autograd.grad(loss, trained, allow_unused=True, materialize_grads=True)
        gradients = [stage.trainer.strategy.reduce(gradient, reduce_op="mean") for gradient in local]
        for parameter, gradient in zip(trained, gradients, strict=True):
            parameter.grad = gradient
        if stage.objective_clip is not None:
            nn.utils.clip_grad_norm_(trained, stage.objective_clip)  # in place
        # The optimiser skips parameters without a gradient, so it changes these alone. It frees the gradients.
        stage.trainer.optimizers[0].step()
        return first._replace(total=sum(map(carried, gradients, trained), loss.new_zeros(())))


def carried(gradient: Tensor, parameter: Tensor) -> Tensor:
    """0, whose gradient with respect to `parameter` is `gradient`."""
    return (gradient * (parameter - parameter.detach())).sum()
