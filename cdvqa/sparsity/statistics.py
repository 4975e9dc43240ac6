"""Numbers about masks, for logs and reports. Every sparsity is a share of zeros, every count is of weights."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class MatrixReset:
    """What a threshold reset did to one matrix."""

    modality: str
    weights: int
    zeros: int
    """Zeros right after the reset."""
    zeros_before: int
    """Zeros right before it; what they differ by had drifted since the last reset."""
    flips: int
    """Entries whose mask is not what the previous reset (or the start) left."""
    threshold: float | None
    """The new threshold; -inf where nothing is pruned, None for the fixed mask of a dead matrix."""


def sparsity_by_matrix(masks: Mapping[str, Tensor]) -> dict[str, float]:
    """Share of zeros of each mask (bool, True = kept)."""
    return {name: zeros / masks[name].numel() for name, zeros in _zeros(masks).items() if masks[name].numel()}


def sparsity_by_modality(masks: Mapping[str, Tensor], groups: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Share of zeros of each modality of `groups` (matrix names by modality), and `overall`."""
    shares, zeros = {}, _zeros(masks)
    for modality, names in {**groups, "overall": [name for members in groups.values() for name in members]}.items():
        weights = sum(masks[name].numel() for name in names)
        if weights:
            shares[modality] = sum(zeros[name] for name in names) / weights
    return shares


def summarise(report: Mapping[str, MatrixReset]) -> dict[str, float]:
    """A reset as flat numbers under the names they are logged by.

    For each modality M and for `overall`: `sparsity/M`, `mask/flips/M` (share of weights whose mask changed since the
    last reset) and `mask/drift/M` (sparsity just before this reset less the sparsity after it). Over the matrices:
    `mask/threshold/min`, `mean` and `max`, of those that are finite.
    """
    numbers = {}
    modalities = dict.fromkeys(reset.modality for reset in report.values())
    for modality in ("overall", *modalities):
        resets = [reset for reset in report.values() if modality in ("overall", reset.modality)]
        weights = sum(reset.weights for reset in resets)
        zeros = sum(reset.zeros for reset in resets)
        numbers[f"sparsity/{modality}"] = zeros / weights
        numbers[f"mask/flips/{modality}"] = sum(reset.flips for reset in resets) / weights
        numbers[f"mask/drift/{modality}"] = (sum(reset.zeros_before for reset in resets) - zeros) / weights
    thresholds = [reset.threshold for reset in report.values() if reset.threshold is not None]
    if finite := [value for value in thresholds if math.isfinite(value)]:
        summary = {"min": min(finite), "mean": sum(finite) / len(finite), "max": max(finite)}
        numbers |= {f"mask/threshold/{name}": value for name, value in summary.items()}
    return numbers


def _zeros(masks: Mapping[str, Tensor]) -> dict[str, int]:
    """Zeros of each mask; a GPU's are fetched once for all."""
    kept = torch.stack([mask.count_nonzero() for mask in masks.values()]).tolist() if masks else []
    return {name: mask.numel() - count for (name, mask), count in zip(masks.items(), kept, strict=True)}
