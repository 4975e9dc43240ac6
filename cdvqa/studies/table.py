"""The runs under a logs folder as one table, from which every report and figure is made."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd

from cdvqa.errors import InputError
from cdvqa.runs.folder import DIGITS, Run, percent, read_results
from cdvqa.runs.identity import differing
from cdvqa.studies.jobs import Job

ID = "in distribution"
OOD = "out of distribution"
RUN = ["data", "backbone", "run"]  # the columns that the seeds of a run share
PREFIX = r"(model|data|trainer)\."  # of a setting's name
SHARES = ("language", "vision", "cross", "pooler")


def read_runs(logs: Path) -> tuple[pd.DataFrame, list[str]]:
    """Every run below `logs`, finished or not, and one line on each file that cannot be used.

    Returns:
        A table as `runs_table` makes it, and the lines.
    """
    runs, problems = [], []
    for path in sorted(logs.glob("*/*/*/seed*/run.json")):
        try:
            runs.append(row_of(Run(path.parent)))
        except InputError as error:
            problems.append(str(error))
    return runs_table(runs), problems


def runs_table(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """A row per run. Columns:

    - data, backbone, run, seed: its folder; all seeds share `run`.
    - stage, pipeline, method (`full`, `mask` or `omp`), selection.
    - kept: share of the parameters of masked matrices and classifier that are not zero.
    - ID, OOD: the paper's accuracy in percent; NaN before a test.
    - state: `tested`, `not tested` or `not finished`.
    - settings: those of its identity. curve: its name in a figure.
    """
    label_curves(rows)
    return pd.DataFrame(rows)


def named_runs(jobs: Mapping[str, Iterable[Job]]) -> pd.DataFrame:
    """The table of a study's tested runs, with a further column: the name that the study gives to a run of all seeds.

    Raises:
        InputError: a file is broken or missing.
    """
    return runs_table([{"name": name, **row_of(job.run)} for name, seeds in jobs.items() for job in seeds])


def row_of(run: Run) -> dict[str, Any]:
    """The row of one run.

    Raises:
        InputError: run.json or results.json is broken, or of an older cdvqa.
    """
    record, path = run.read(), run.record
    try:
        plan = record["sparsity"] or {}
        data, backbone, name, seed = run.folder.parts[-4:]
        parameters = record.get("parameters")
        row = {
            "data": data,
            "backbone": backbone,
            "run": name,
            "seed": int(seed.removeprefix("seed")),
            "stage": record["stage"],
            "pipeline": "+".join(record["pipeline"]),
            "method": plan.get("method", "full"),
            "plan": plan,
            "kept": parameters["kept"] / parameters["full"] if parameters else float("nan"),
            "identity": record["identity"],
            "settings": record["settings"],
            "state": "not tested" if record["finished"] else "not finished",
            "selection": "",
        }
        path = run.results
        return row | accuracies(read_results(run))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ZeroDivisionError) as error:
        raise InputError(f"{path}: broken, or written by an older cdvqa ({error!r})") from error


def accuracies(results: Mapping[str, Any]) -> dict[str, Any]:
    """Accuracy in and out of distribution, as the data set itself classifies its test splits.

    Several out-of-distribution splits count by the data set's own mean, if it has one.
    """
    if not results:
        return {ID: float("nan"), OOD: float("nan")}
    found: dict[str, list[float]] = {"id": [], "ood": []}
    for split in results["splits"].values():
        found[split["distribution"]] += [split["all"]] if "all" in split else []
    means = {kind: fmean(values) if values else float("nan") for kind, values in found.items()}
    ood = results["means"].get("ood_mean", means["ood"])
    return {ID: means["id"], OOD: ood, "state": "tested", "selection": results["selection"]}


def label_curves(rows: Sequence[dict[str, Any]]) -> None:
    """Name the curve of each row: its runs differ in the overall sparsity and nothing else.

    Where one name would stand for runs with different settings, these settings are added to it.
    """
    by_identity = {row["identity"]: row["settings"] for row in rows}
    alike: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        alike.setdefault((row["data"], row["backbone"], plain_label(row)), []).append(row)
    for (*_, label), group in alike.items():
        settings = [training_settings(row["settings"], by_identity) for row in group]
        names = differing(settings)
        for row, own in zip(group, settings, strict=True):
            row["curve"] = ", ".join([label, *described(own, names)])


def plain_label(row: Mapping[str, Any]) -> str:
    """Stage, pipeline, method and assignment, and shares of the modalities that are not the overall share."""
    if row["method"] == "full":
        return f"full ({row['pipeline']})"
    plan = row["plan"]
    assignment = [plan["assignment"].rpartition(".")[2]] if plan["assignment"] != "uniform" else []
    shares = {name: plan[name] for name in SHARES if plan.get(name) not in (None, plan["overall"])}
    described = [f"{name} {percent(share)} %" for name, share in shares.items()]
    return ", ".join([f"stage {row['stage']}: {row['pipeline']}", row["method"], *assignment, *described])


def training_settings(settings: Mapping[str, Any], by_identity: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A run's settings without its numbers of zeros, and in place of its parent's identity those of the parent."""
    own = {name: value for name, value in settings.items() if not name.startswith("model.sparsity.zeros.")}
    parent = own.pop("parent", {})
    if parent.get("identity") in by_identity:
        above = training_settings(by_identity[parent["identity"]], by_identity)
        parent = above | {name: value for name, value in parent.items() if name != "identity"}
    return own | {f"parent.{name}": value for name, value in parent.items()}


def described(settings: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """The settings of these names that the run reads: `lr 0.001`; a parent by the first digits of its identity."""
    values = {name: settings[name] for name in names if name in settings}
    values |= {name: str(value["identity"])[:DIGITS] for name, value in values.items() if name == "parent"}
    return [f"{re.sub(PREFIX, '', name)} {value}" for name, value in values.items()]


def markdown(runs: pd.DataFrame, by: Sequence[str]) -> str:
    """Markdown to read: a row per group of seeds, mean ± standard deviation of each accuracy.

    Args:
        runs: tested runs.
        by: columns whose values the seeds of one row share.
    """
    rows = []
    for key, seeds in runs.groupby(list(by), sort=False):
        cells = {"kept": f"{100 * seeds['kept'].mean():.1f} %", "seeds": str(len(seeds))}
        rows.append(dict(zip(by, key, strict=True)) | cells | {place: spread(seeds[place]) for place in (ID, OOD)})
    table = pd.DataFrame(rows)
    return table.loc[:, (table != "").any()].to_markdown(index=False, disable_numparse=True)


def spread(values: pd.Series) -> str:
    """Mean ± standard deviation (n − 1) over seeds; empty without any value."""
    values = values.dropna()
    if len(values) < 2:
        return f"{values.iloc[0]:.2f}" if len(values) else ""
    return f"{values.mean():.2f} ± {values.std():.2f}"


def gaps(runs: pd.DataFrame, better: str, worse: str) -> pd.Series:
    """By how much one named run beats another out of distribution, seed by seed, in points."""
    scores = runs.pivot(index="seed", columns="name", values=OOD)
    return scores[better] - scores[worse]


def verdict(gaps: pd.Series, least: float, more: bool = False) -> str:
    """Whether the mean reaches `least`, or is more than that."""
    mean = gaps.mean()
    return "holds" if (mean > least if more else mean >= least) else "**does not hold here**"
