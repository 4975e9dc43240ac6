"""Shares of zeros of the modalities that a study does not list: those of a grid, or the best of another study."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import combinations, product
from pathlib import Path
from statistics import fmean
from typing import Any

from cdvqa.errors import InputError
from cdvqa.runs.identity import own_settings
from cdvqa.sparsity import MODALITIES, solve_budget
from cdvqa.studies.sweep.records import read_lines

GRID = {"from", "to", "step"}
BEST = {"best_of"}
STEP = 0.001  # the smallest


def shares_of(
    wanted: Any, overall: Any, configs: Sequence[str], records: Path, size: str | None
) -> list[dict[str, float]]:
    """The shares that a study's `shares` stand for.

    Args:
        wanted: shares by modality, which are returned as they are; `{from: 0.1, to: 0.9, step: 0.2}`, every assignment
            on this grid; or `{best_of: fig8}`, the best one of that study.
        overall: the overall share of zeros.
        configs: overlays that name data set and backbone.
        records: folder of the studies' records.
        size: of the study that asks; the other one is read in the same size.

    Raises:
        InputError: keys are mixed, a value is no share, no overall sparsity, or the other study has no result for it.
    """
    if not isinstance(wanted, Mapping):
        raise InputError(f"shares: expected a mapping, not {wanted!r:.60}")
    kind = next((keys for keys in (GRID, BEST) if keys & set(wanted)), None)
    if kind is None:
        return [dict(wanted)]
    if set(wanted) != kind or not isinstance(overall, int | float):
        raise InputError(f"shares: {', '.join(sorted(kind))} stand alone, and beside a sparsity")
    if kind == BEST:
        name = f"{wanted['best_of']}-{size}" if size else str(wanted["best_of"])
        return [best_shares(records, name, overall)]
    first, last, step = (wanted[name] for name in ("from", "to", "step"))
    numbers = all(isinstance(value, int | float) for value in wanted.values())
    if not numbers or not 0 <= first <= last <= 1 or step < STEP:
        raise InputError(f"shares: expected 0 <= from <= to <= 1 and a step of {STEP} or more, not {dict(wanted)}")
    levels = [round(first + number * step, 6) for number in range(round((last - first) / step) + 1)]
    return grid_shares(dict.fromkeys(MODALITIES, levels), overall, weights_of(tuple(configs)))


def grid_shares(
    levels: Mapping[str, Sequence[float]], overall: float, counts: Mapping[str, int]
) -> list[dict[str, float]]:
    """The assignments of App. C.4: any two modalities take these levels, and Eq. 10 gives the third.

    Args:
        levels: shares of zeros that each modality takes.
        overall: the overall share of zeros.
        counts: prunable weights per modality.

    Returns:
        Shares of language and vision, each assignment once; that of the cross-modality modules follows from them.
    """
    found: dict[tuple[float, ...], dict[str, float]] = {}
    for pair in combinations(MODALITIES, 2):
        for chosen in product(*(levels[name] for name in pair)):
            try:
                shares = solve_budget(overall, **dict(zip(pair, chosen, strict=True)), counts=counts)
            except InputError:  # the third share would lie outside 0 to 1
                continue
            key = tuple(round(share, 9) for share in shares.values())
            found.setdefault(key, {name: shares[name] for name in ("language", "vision")})
    return list(found.values())


def best_shares(records: Path, study: str, overall: float) -> dict[str, float]:
    """The shares of language and vision that did best on the development split at this overall sparsity.

    Trials of `cdvqa search STUDY --method grid` count too. The assignments with the most seeds are compared by their
    mean accuracy, among runs with the settings of the latest one. A sparsity below all that were searched takes the
    shares of the lowest one in proportion: Eq. 10 is linear in the shares.

    Args:
        records: folder of the studies' records.
        study: the study that searched, with its size.
        overall: the overall share of zeros.

    Raises:
        InputError: there is no result for this sparsity.
    """
    files = [records / f"{study}{method}.jsonl" for method in ("-grid", "")]
    lines = {key: line for file in files for key, line in read_lines(file).items()}
    known = [line for line in lines.values() if line.get("dev") is not None and assignment_of(line) == "modality"]
    latest = max(known, key=lambda line: line["finished"], default=None)
    found: defaultdict[float, defaultdict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for line in known:
        if latest and settings_of(line) == settings_of(latest):
            found[round(line["sparsity"]["overall"], 3)][line["identity"]].append(line)
    wanted = round(overall, 3)
    level = wanted if wanted in found or not found else max(wanted, min(found))
    if level not in found:
        name, _, size = study.partition("-")
        raise InputError(
            f"{files[-1]}: no assignment of {100 * overall:g} % zeros with a development accuracy; this study takes "
            f"its shares from the result of `cdvqa sweep {name}{f' --size {size}' if size else ''}`"
        )
    most = max(map(len, found[level].values()))
    trials = [seeds for seeds in found[level].values() if len(seeds) == most]
    best, *_ = max(trials, key=lambda seeds: fmean(line["dev"] for line in seeds))
    scale = overall / level if level > wanted else 1
    return {name: best["sparsity"][name] * scale for name in ("language", "vision")}


def assignment_of(line: Mapping[str, Any]) -> str | None:
    """The assignment of a run's zeros; None of a full model."""
    return (line["sparsity"] or {}).get("assignment")


def settings_of(line: Mapping[str, Any]) -> dict[str, Any]:
    """A run's settings that depart from the baseline, without its numbers of zeros."""
    own = own_settings(line["settings"])
    return {name: value for name, value in own.items() if not name.startswith("model.sparsity.zeros.")}


@cache
def weights_of(configs: tuple[str, ...]) -> dict[str, int]:
    """Prunable weights per modality of the backbone that these overlays name."""
    from cdvqa.cli.inspect import ConfigInspector

    options = [word for name in ("stage2_omp.yaml", *configs) for word in ("--config", name)]
    return dict(ConfigInspector(options).model.backbone.counts())
