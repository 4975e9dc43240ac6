"""Callbacks of mask training that find shares of zeros by what they cost: losses and gradients of training batches.

The shares that a run ends with are its result. Other runs, of the usual kind, then train with them from the start.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from pytorch_lightning import Callback
from scipy.optimize import isotonic_regression
from torch import nn

from cdvqa.sparsity import MODALITIES, FixedMask, binary_masks, reset_thresholds, select_threshold
from cdvqa.sparsity.masks.matrices import masked_matrices
from cdvqa.stages.mask_train import evaluating
from cdvqa.studies.search.methods import MOST, REACH

BATCHES = 6  # training batches that losses are means over
LEVELS = (-0.2, -0.1, 0.0, 0.1, 0.2)  # from the overall share: where the curves of a modality are measured
UPDATES, UNTIL = 16, 0.6  # how often shares move, within this part of the training
FIRST_MOVE = 0.02  # of all weights; later moves become smaller
PROBE = 0.005  # of all weights: how many more a modality keeps where its price is measured

Shares = Mapping[str, float]
"""Share of zeros by modality."""


class Moving(Callback, ABC):
    """What these callbacks share: training batches, and losses of the masked model at other shares of zeros.

    Every process looks at the same batches, so all come to the same shares.
    """

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.counts = {name: pl_module.counts[name] for name in MODALITIES}
        self.overall: float = pl_module.sparsity.overall
        loader, _ = pl_module.facts.first_batches(pl_module.objective.batch_dependent)
        device = trainer.strategy.root_device
        self.batches = [batch.to(device).widened() for batch in islice(iter(loader), BATCHES)]
        if trainer.global_step == 0:
            self.begin(trainer, pl_module)

    @abstractmethod
    def begin(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Called before the first step."""

    def take(self, trainer: pl.Trainer, pl_module: Any, shares: Shares) -> None:
        """Go on with these shares, and log them."""
        share_out(pl_module.backbone, shares)
        for logger in trainer.loggers:
            logger.log_metrics(
                {f"search/share/{name}": share for name, share in shares.items()}, step=trainer.global_step
            )

    @torch.no_grad()
    def losses(self, pl_module: Any, shares: Shares) -> NDArray[np.float64]:
        """The objective's loss of each batch at these shares, without dropout."""
        share_out(pl_module.backbone, shares)
        with evaluating(pl_module):
            found = torch.stack([pl_module.loss(batch).total for batch in self.batches])
        return found.double().cpu().numpy()


class Curves(Moving):
    """Before training: the loss of magnitude masks, with the zeros of one modality at a time varied.

    The sum of these three curves is least, under Eq. 10, at the shares that are taken.
    """

    def begin(self, trainer: pl.Trainer, pl_module: Any) -> None:
        levels = sorted({min(max(self.overall + step, 0.0), MOST) for step in LEVELS})
        uniform = dict.fromkeys(MODALITIES, self.overall)
        curves = {
            name: [self.losses(pl_module, uniform | {name: level}).mean() for level in levels] for name in MODALITIES
        }
        self.take(trainer, pl_module, least_loss(levels, curves, self.overall, self.counts))


class SquaredGradients(Moving):
    """Before training: what a modality keeps beyond a floor goes by Σ W² · mean g² of the dense model.

    First-order ECoFLaP (Sung et al. 2024), with modalities in place of blocks.
    """

    def begin(self, trainer: pl.Trainer, pl_module: Any) -> None:
        share_out(pl_module.backbone, dict.fromkeys(MODALITIES, 0.0))
        masks = {m.name: m.mask.placement.modality for m in masked_matrices(pl_module.backbone)}
        scores = {name: mask.score for name, mask in binary_masks(pl_module.backbone).items()}
        found = dict.fromkeys(MODALITIES, 0.0)
        with evaluating(pl_module):
            for batch in self.batches:
                # The straight-through gradient of a score is W · g.
                loss = pl_module.loss(batch).total
                gradients = torch.autograd.grad(loss, list(scores.values()), allow_unused=True)
                for name, gradient in zip(scores, gradients, strict=True):
                    if gradient is not None and masks[name] in found:
                        found[masks[name]] += gradient.double().square().sum().item()
        self.take(trainer, pl_module, in_proportion(found, self.overall, self.counts))


class Prices(Moving):
    """In training: zeros move from the modality where a further weight saves most loss to where it saves least.

    The price of a modality is the loss that `PROBE` more of its weights would save; zeros move where two prices differ
    by more than two standard errors over the batches. After `UNTIL` of the training the shares stay.
    """

    def begin(self, trainer: pl.Trainer, pl_module: Any) -> None:
        pass

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        super().on_train_start(trainer, pl_module)
        steps = int(trainer.estimated_stepping_batches)
        self.moments = {round(UNTIL * steps * number / UPDATES): number for number in range(UPDATES, 0, -1)}
        self._last_step = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        stepped, self._last_step = trainer.global_step > self._last_step, trainer.global_step
        if stepped and trainer.global_step in self.moments:
            shares = shares_of(pl_module.backbone)
            total = sum(self.counts.values())
            before = self.losses(pl_module, shares)
            saved = {
                name: before
                - self.losses(pl_module, shares | {name: max(shares[name] - PROBE * total / self.counts[name], 0.0)})
                for name in MODALITIES
            }
            done = (self.moments[trainer.global_step] - 1) / UPDATES
            amount = round(FIRST_MOVE * total * (1 - done) ** 3)
            self.take(trainer, pl_module, moved(shares, saved, amount, self.overall, self.counts))


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


def shares_of(model: nn.Module) -> dict[str, float]:
    """The share of zeros that each modality is given."""
    places = [matrix.mask.placement for matrix in masked_matrices(model)]
    return {name: next(place.share for place in places if place.modality == name) for name in MODALITIES}


def least_loss(
    levels: Sequence[float], curves: Mapping[str, Sequence[float]], overall: float, counts: Mapping[str, int]
) -> dict[str, float]:
    """The shares whose losses have the least sum, under Eq. 10; language and vision move by 1 %.

    Args:
        levels: shares of zeros in ascending order.
        curves: the loss at each of them, by modality. A loss that falls with more zeros is noise, and is levelled.
        overall: share of zeros over the three modalities.
        counts: prunable weights per modality.
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
    best = np.where(cost <= least + 1e-6 * spread, distance, np.inf).argmin()  # between equals the most uniform
    return {name: float(np.clip(values[best], 0, 1)) for name, values in shares.items()}


def in_proportion(scores: Mapping[str, float], overall: float, counts: Mapping[str, int]) -> dict[str, float]:
    """Shares of zeros where all modalities keep the same floor, and what else is kept goes by their scores.

    Args:
        scores: of all weights of a modality together; not negative.
        overall: share of zeros over the three modalities.
        counts: prunable weights per modality.
    """
    floor = 1 - min(0.95, overall + REACH) if overall < 0.95 else 1 - overall
    kept = {name: floor * count for name, count in counts.items()}
    left, open_ = (1 - overall) * sum(counts.values()) - sum(kept.values()), set(counts)
    while left > 1e-6 and open_:
        parts: Mapping[str, float] = scores if any(scores[name] for name in open_) else counts
        given = {name: left * parts[name] / sum(parts[other] for other in open_) for name in open_}
        left = 0.0
        for name, part in given.items():
            kept[name] += part
            if kept[name] >= counts[name]:
                left += kept[name] - counts[name]
                kept[name] = float(counts[name])
                open_.discard(name)
    return {name: 1 - kept[name] / counts[name] for name in counts}


def moved(
    shares: Shares, saved: Mapping[str, NDArray[np.float64]], amount: int, overall: float, counts: Mapping[str, int]
) -> dict[str, float]:
    """The shares after zeros have moved from the dearest modality to the cheapest, if these two can be told apart.

    Args:
        shares: as they are.
        saved: loss of each batch that as many more weights of a modality would save.
        amount: how many zeros move, unless one of the two shares would go too far from the overall one.
        overall: share of zeros over the three modalities.
        counts: prunable weights per modality.
    """
    low, high = max(overall - REACH, 0.0), min(overall + REACH, MOST)
    mean = {name: float(values.mean()) for name, values in saved.items()}
    dear = max((name for name in shares if shares[name] > low), key=lambda name: mean[name], default=None)
    cheap = min((name for name in shares if shares[name] < high), key=lambda name: mean[name], default=None)
    if dear is None or cheap is None or dear == cheap:
        return dict(shares)
    difference = saved[dear] - saved[cheap]
    error = difference.std(ddof=1) / len(difference) ** 0.5 if len(difference) > 1 else np.inf
    if not difference.mean() > 2 * error:
        return dict(shares)
    amount = min(amount, int((shares[dear] - low) * counts[dear]), int((high - shares[cheap]) * counts[cheap]))
    return dict(shares) | {
        dear: shares[dear] - amount / counts[dear],
        cheap: shares[cheap] + amount / counts[cheap],
    }
