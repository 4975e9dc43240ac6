"""Shares of zeros from the loss before mask training: the callback of `cdvqa search --method auto`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning import Callback
from scipy.optimize import isotonic_regression
from torch import nn

from cdvqa.data.batch import VQABatch
from cdvqa.sparsity import MODALITIES, FixedMask, reset_thresholds, select_threshold
from cdvqa.sparsity.masks.matrices import masked_matrices
from cdvqa.stages.mask_train import evaluating
from cdvqa.studies.search.methods import MOST

BATCHES = 6  # training batches that a loss is a mean over
OFFSETS = [0.05 * step for step in range(-4, 5)]  # from the overall share: the points of a curve

Shares = Mapping[str, float]
"""Share of zeros by modality."""


class Curves(Callback):
    """Before the first step: measure the loss of magnitude masks while the share of one modality at a time varies.

    This gives a curve for each modality. The shares with the least sum of the three curves, under Eq. 10, become those
    of the run. Curves and shares are logged. Every process reads the same batches, so all find the same shares.
    """

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if trainer.global_step:
            return
        counts = {name: pl_module.counts[name] for name in MODALITIES}
        overall = pl_module.sparsity.overall
        loader, _ = pl_module.facts.first_batches(pl_module.objective.batch_dependent)
        device = trainer.strategy.root_device
        batches = [batch.to(device).widened() for batch in islice(iter(loader), BATCHES)]
        levels = sorted({round(min(max(overall + step, 0.0), MOST), 9) for step in OFFSETS})
        uniform = dict.fromkeys(MODALITIES, overall)
        curves = {
            name: [mean_loss(pl_module, uniform | {name: level}, batches) for level in levels] for name in MODALITIES
        }
        shares = least_loss(levels, curves, overall, counts)
        share_out(pl_module.backbone, shares)
        logged = {f"search/share/{name}": share for name, share in shares.items()}
        for name, curve in curves.items():
            logged |= {f"search/loss/{name}/{level:.3g}": loss for level, loss in zip(levels, curve, strict=True)}
        for logger in trainer.loggers:
            logger.log_metrics(logged, step=trainer.global_step)


@torch.no_grad()
def mean_loss(pl_module: Any, shares: Shares, batches: Sequence[VQABatch]) -> float:
    """The objective's mean loss over batches at these shares, without dropout."""
    share_out(pl_module.backbone, shares)
    with evaluating(pl_module):
        losses = torch.stack([pl_module.loss(batch).total for batch in batches])
    return losses.double().mean().item()


@torch.no_grad()
def share_out(model: nn.Module, shares: Shares) -> None:
    """Give modalities these shares of zeros, now and at every later reset."""
    for _, _, _, mask, weight in masked_matrices(model):
        share = shares.get(mask.placement.modality)
        if share is None or share == mask.placement.share:
            continue
        mask.placement = replace(mask.placement, share=share)
        if isinstance(mask, FixedMask):
            mask.kept.copy_(torch.as_tensor(select_threshold(weight.abs(), share, weight).mask))
    reset_thresholds(model)


def least_loss(
    levels: Sequence[float], curves: Mapping[str, Sequence[float]], overall: float, counts: Mapping[str, int]
) -> dict[str, float]:
    """The shares whose losses have the least sum, under Eq. 10; language and vision vary in steps of 1 %.

    Args:
        levels: shares of zeros in ascending order.
        curves: the loss at each of them, by modality. A loss that falls with more zeros is taken as noise: isotonic
            regression makes each curve rise.
        overall: share of zeros over the three modalities.
        counts: prunable weights per modality.

    Returns:
        Share of zeros by modality. Of equal sums the one nearest to uniform wins.
    """
    low, high = levels[0], levels[-1]
    axis = np.unique(np.append(np.arange(low, high, 0.01), [overall, high]))
    language, vision = (grid.ravel() for grid in np.meshgrid(axis, axis))
    zeros = overall * sum(counts.values()) - language * counts["language"] - vision * counts["vision"]
    shares = {"language": language, "vision": vision, "cross": zeros / counts["cross"]}
    smooth = {name: isotonic_regression(curve).x for name, curve in curves.items()}
    cost = sum(np.interp(shares[name], levels, smooth[name]) for name in MODALITIES)
    feasible = (shares["cross"] >= low - 1e-9) & (shares["cross"] <= high + 1e-9)
    cost = np.where(feasible, cost, np.inf)
    least, spread = cost.min(), max(map(np.ptp, smooth.values()))
    distance = np.max([np.abs(values - overall) for values in shares.values()], axis=0)
    best = np.where(cost <= least + 1e-6 * spread, distance, np.inf).argmin()
    return {name: float(np.clip(values[best], 0, 1)) for name, values in shares.items()}
