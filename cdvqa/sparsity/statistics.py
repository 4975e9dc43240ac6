"""Numbers about masks, for logs and reports. Every sparsity is a share of zeros, every count is of weights."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass

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
    """Zeros right before it; the difference is the drift since the last reset."""
    flips: int
    """Entries whose mask is not what the previous reset (or the start) left."""
    threshold: float | None
    """The new threshold; -inf where nothing is pruned, None for the fixed mask of a dead matrix."""


@dataclass(frozen=True)
class Overlap:
    """Two sets of the same weights, such as the zeros of two masks.

    Attributes:
        weights: how many there are.
        first, second: how many are in each set.
        both: how many are in both.
    """

    weights: int
    first: int
    second: int
    both: int

    @property
    def index(self) -> float:
        """Jaccard index: the share of the weights in either set that are in both; 1 where both sets are empty."""
        return jaccard(self.first, self.second, self.both)

    @property
    def by_chance(self) -> float:
        """The index that random sets of these sizes would have."""
        return jaccard(self.first, self.second, self.first * self.second / self.weights)

    @property
    def agreement(self) -> float:
        """The share of all weights that are in both sets or in neither."""
        return (self.weights - self.first - self.second + 2 * self.both) / self.weights

    @property
    def complement(self) -> "Overlap":
        """Of the weights that are not in the sets."""
        neither = self.weights - self.first - self.second + self.both
        return Overlap(self.weights, self.weights - self.first, self.weights - self.second, neither)


def jaccard(first: int, second: int, both: float) -> float:
    """Jaccard index of sets of these sizes that have `both` in common."""
    either = first + second - both
    return both / either if either else 1.0


def common_zeros(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> dict[str, Overlap]:
    """The zeros of two masks (bool, True = kept) of each matrix."""
    either = {name: mask | second[name].to(mask.device) for name, mask in first.items()}
    ours, theirs, both = _zeros(first), _zeros(second), _zeros(either)
    return {name: Overlap(mask.numel(), ours[name], theirs[name], both[name]) for name, mask in first.items()}


def overlap_by_modality(overlaps: Mapping[str, Overlap], groups: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Jaccard index of the zeros of each modality of `groups` (matrix names by modality), and of `overall`."""
    named = with_overall(groups)
    return {modality: summed([overlaps[name] for name in names]).index for modality, names in named.items() if names}


def with_overall(groups: Mapping[str, Sequence[str]]) -> dict[str, Sequence[str]]:
    """Matrix names by modality, and all of them as `overall`."""
    return {**groups, "overall": [name for members in groups.values() for name in members]}


def summed(parts: Iterable[Overlap]) -> Overlap:
    """Sets of several matrices as one."""
    return Overlap(*map(sum, zip(*map(astuple, parts), strict=True)))


def sparsity_by_matrix(masks: Mapping[str, Tensor]) -> dict[str, float]:
    """Share of zeros of each mask (bool, True = kept)."""
    return {name: zeros / masks[name].numel() for name, zeros in _zeros(masks).items() if masks[name].numel()}


def sparsity_by_modality(masks: Mapping[str, Tensor], groups: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Share of zeros of each modality of `groups` (matrix names by modality), and `overall`."""
    shares, zeros = {}, _zeros(masks)
    for modality, names in with_overall(groups).items():
        weights = sum(masks[name].numel() for name in names)
        if weights:
            shares[modality] = sum(zeros[name] for name in names) / weights
    return shares


def summarise(report: Mapping[str, MatrixReset]) -> dict[str, float]:
    """A reset as flat numbers under the names they are logged by.

    For each modality M and for `overall`: `sparsity/M`, `mask/flips/M` (share of weights whose mask changed since the
    last reset) and `mask/drift/M` (sparsity just before this reset less the sparsity after it). Over the matrices whose
    threshold is finite: `mask/threshold/min`, `mean` and `max`, and `mask/threshold/M`, the mean of the modality.
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
    thresholds = [(r.modality, r.threshold) for r in report.values() if r.threshold is not None]
    finite = [(modality, value) for modality, value in thresholds if math.isfinite(value)]
    if values := [value for _, value in finite]:
        summary = {"min": min(values), "mean": sum(values) / len(values), "max": max(values)}
        for modality in dict.fromkeys(modality for modality, _ in finite):
            own = [value for of, value in finite if of == modality]
            summary[modality] = sum(own) / len(own)
        numbers |= {f"mask/threshold/{name}": value for name, value in summary.items()}
    return numbers


def _zeros(masks: Mapping[str, Tensor]) -> dict[str, int]:
    """Zeros of each mask, with one transfer from a GPU."""
    kept = torch.stack([mask.count_nonzero() for mask in masks.values()]).tolist() if masks else []
    return {name: mask.numel() - count for (name, mask), count in zip(masks.items(), kept, strict=True)}
