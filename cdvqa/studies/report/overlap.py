"""How much the masks of subnetworks have in common, by modality."""

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cdvqa.cli.inspect import ConfigInspector
from cdvqa.errors import InputError
from cdvqa.sparsity import NetworkFile
from cdvqa.sparsity.statistics import Overlap
from cdvqa.studies.report.table import folders_of

MOST_RUNS = 12  # of a data set and backbone, each with all seeds: a mask of LXMERT-base takes 25 MB
NOTE = (
    "Jaccard index of the zeros: those that two masks share among those that either has; in brackets that of random "
    "masks with as many zeros. Masks of one overall sparsity are compared, that nearest 50 %; of runs with different "
    "objectives or stages, those of the same seed."
)


@dataclass
class Masks:
    """The masks of a network by modality.

    Attributes:
        bits: eight weights a byte, 1 = kept.
        sizes: number of weights.
    """

    bits: dict[str, NDArray[np.uint8]]
    sizes: dict[str, int]

    def zeros(self, other: "Masks") -> dict[str, Overlap]:
        """The zeros of this mask and of another one by modality, where both have as many weights."""
        found = {}
        for modality, ours in self.bits.items():
            theirs = other.bits.get(modality)
            if theirs is None or len(theirs) != len(ours):
                continue
            kept = [int(np.bitwise_count(bits).sum()) for bits in (ours, theirs, ours | theirs)]
            size = self.sizes[modality]
            found[modality] = Overlap(size, *(size - number for number in kept))
        return found


def overlap_table(runs: pd.DataFrame, logs: Path) -> tuple[pd.DataFrame, list[str]]:
    """The overlap of the masks between seeds of a run, and between runs of the same seed.

    Args:
        runs: tested runs.
        logs: folder of their run folders; those whose subnetwork is not there are left out.

    Returns:
        The table, and a line on each file that cannot be used.
    """
    rows: list[dict[str, Any]] = []
    problems: list[str] = []
    for (data, backbone), alike in runs[runs["method"] != "full"].groupby(["data", "backbone"], sort=False):
        found = read_all(chosen(alike, logs), logs, problems)
        names = list(dict.fromkeys(name for name, _ in found))
        for first, second in [*((name, name) for name in names), *combinations(names, 2)]:
            pairs = [
                (found[one], found[other])
                for one, other in combinations(found, 2)
                if {one[0], other[0]} == {first, second} and (first == second or one[1] == other[1])
            ]
            if pairs:
                kind = "seeds" if first == second else "objectives or stages"
                cells = {"data": data, "backbone": backbone, "between": kind, "run": first}
                cells["and"] = "another seed" if first == second else second
                rows.append({**cells, **overlap_cells(pairs), "pairs": str(len(pairs))})
    return pd.DataFrame(rows).fillna(""), problems


def chosen(runs: pd.DataFrame, logs: Path) -> pd.DataFrame:
    """The runs to compare: those at the overall sparsity nearest 50 %, at most twelve, each with all its seeds."""
    runs = runs[[run.subnetwork.is_file() for run in folders_of(runs, logs)]]
    if runs.empty:
        return runs
    level = min(runs["overall"].unique(), key=lambda share: (abs(share - 0.5), share))
    runs = runs[runs["overall"] == level]
    return runs[runs["run"].isin(list(dict.fromkeys(runs["run"]))[:MOST_RUNS])]


def read_all(runs: pd.DataFrame, logs: Path, problems: list[str]) -> dict[tuple[str, int], Masks]:
    """Masks by curve and seed; a line on each file that cannot be used is added to `problems`."""
    found, modalities = {}, None
    for curve, seed, run in zip(runs["curve"], runs["seed"], folders_of(runs, logs), strict=True):
        try:
            if modalities is None:
                modalities = ConfigInspector(["--config", str(run.config)]).model.backbone.matrices()
            found[curve, seed] = read_masks(run.subnetwork, modalities)
        except InputError as error:
            problems.append(f"masks of {run.folder} left out: {error}")
    return found


def read_masks(path: Path, modalities: Mapping[str, list[str]]) -> Masks:
    """The masks of a network, without its weights; a matrix without a mask counts as kept.

    Args:
        path: the network's file.
        modalities: names of the matrices that can be masked, by modality.

    Raises:
        InputError: the file is broken, lacks a matrix, or has lost the parts that no answer needs.
    """
    file = NetworkFile(path)
    if file.metadata.get("left") or file.metadata.get("reduced"):
        raise InputError(f"{path}: heads, neurons or unused parts were taken out of its matrices; name its run instead")
    names = {modality: group for modality, group in modalities.items() if group}
    if missing := {name for group in names.values() for name in group} - set(file.names):
        raise InputError(f"{path}: holds no {min(missing)}; it seems to be of another model")
    bits = {modality: np.concatenate([packed(file, name) for name in group]) for modality, group in names.items()}
    return Masks(bits, {m: sum(math.prod(file.shape(name)) for name in group) for m, group in names.items()})


def packed(file: NetworkFile, name: str) -> NDArray[np.uint8]:
    """The mask of a matrix, eight weights a byte, row by row."""
    return np.packbits(file.mask(name).numpy() if name in file.shapes else np.ones(file.shape(name), np.bool_))


def overlap_cells(pairs: list[tuple[Masks, Masks]]) -> dict[str, str]:
    """The Jaccard index of the zeros by modality, where both masks have some.

    Its mean, its standard deviation over several pairs, and in brackets its value by chance.
    """
    found: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    for one, other in pairs:
        for modality, zeros in one.zeros(other).items():
            if zeros.first and zeros.second:
                found[modality].append((zeros.index, zeros.by_chance))
    cells = {}
    for modality, overlaps in found.items():
        indices, chances = map(list, zip(*overlaps, strict=True))
        deviation = f" ± {stdev(indices):.3f}" if len(indices) > 1 else ""
        cells[modality] = f"{fmean(indices):.3f}{deviation} ({fmean(chances):.3f})"
    return cells
