"""How much the masks of subnetworks have in common, by modality."""

import json
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
from safetensors import SafetensorError, safe_open

from cdvqa.cli.inspect import ConfigInspector
from cdvqa.errors import InputError
from cdvqa.studies.report.table import folders_of

MOST_RUNS = 12  # of a data set and backbone, each with all seeds: LXMERT-base's masks have 25 MB a seed
NOTE = (
    "Jaccard index of the zeros: those that two masks share among those that either has; in brackets that of random "
    "masks with as many zeros. Masks of one overall sparsity are compared, that nearest 50 %; of runs with different "
    "objectives or stages, those of the same seed."
)


@dataclass
class Masks:
    """Bit-packed masks, 1 = kept, by modality; `sizes` are their numbers of weights."""

    bits: dict[str, NDArray[np.uint8]]
    sizes: dict[str, int]

    def overlap(self, other: "Masks") -> dict[str, tuple[float, float]]:
        """Jaccard index of the zeros by modality, and what it would be by chance, where both masks have zeros."""
        found = {}
        for modality, ours in self.bits.items():
            theirs = other.bits.get(modality)
            if theirs is None or len(theirs) != len(ours):
                continue
            kept = [int(np.bitwise_count(bits).sum()) for bits in (ours, theirs, ours | theirs)]
            first, second, both = (self.sizes[modality] - number for number in kept)  # zeros
            if first and second:
                by_chance = first * second / self.sizes[modality]
                found[modality] = (both / (first + second - both), by_chance / (first + second - by_chance))
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
                rows.append({**cells, **measured(pairs), "pairs": str(len(pairs))})
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
    """Masks by curve and seed."""
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
    """The masks of a subnetwork, without its weights.

    Args:
        path: the subnetwork file.
        modalities: names of the masked matrices by modality.

    Raises:
        InputError: the file is broken, or lacks a matrix.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            shapes = json.loads(file.metadata()["shapes"])
            bits = {
                modality: np.concatenate([file.get_tensor(f"mask/{name}") for name in names])
                for modality, names in modalities.items()
                if names
            }
            sizes = {modality: sum(int(np.prod(shapes[name])) for name in modalities[modality]) for modality in bits}
            return Masks(bits, sizes)
    except (SafetensorError, OSError, LookupError, ValueError, TypeError) as error:
        raise InputError(f"{path}: no subnetwork file of these matrices ({error})") from error


def measured(pairs: list[tuple[Masks, Masks]]) -> dict[str, str]:
    """Overlap by modality: its mean, over several pairs its standard deviation, and what it would be by chance."""
    found: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    for one, other in pairs:
        for modality, overlap in one.overlap(other).items():
            found[modality].append(overlap)
    cells = {}
    for modality, overlaps in found.items():
        indices, chances = map(list, zip(*overlaps, strict=True))
        deviation = f" ± {stdev(indices):.3f}" if len(indices) > 1 else ""
        cells[modality] = f"{fmean(indices):.3f}{deviation} ({fmean(chances):.3f})"
    return cells
