"""The records of many runs as one table, from which every part of a report is made."""

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pandas as pd

from cdvqa.errors import InputError
from cdvqa.metrics import id_and_ood
from cdvqa.runs.folder import DIGITS, Run, percent
from cdvqa.runs.identity import differing, own_settings
from cdvqa.sparsity import MODALITIES
from cdvqa.studies.sweep.records import line_of
from cdvqa.studies.sweep.study import plain_keys

RUN = ["data", "backbone", "run"]  # the columns that the seeds of a run share
PREFIX = r"(model|data|trainer)\.(objective_options\.)?"  # of a setting's name
NOT_SCORES = ("per_question_type", "official", "n", "distribution")  # of a split's results
NAN = float("nan")
Filter = Mapping[str, Any]


def read_logs(logs: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The lines of all runs below a logs folder, and one line on each file that cannot be used."""
    lines, problems = [], []
    for path in sorted(logs.glob("*/*/*/seed*/run.json")):
        try:
            lines.append(line_of(Run(path.parent)))
        except InputError as error:
            problems.append(str(error))
    return lines, problems


def folders_of(runs: pd.DataFrame, logs: Path) -> list[Run]:
    """Where the runs of the table lie, or would lie."""
    names = zip(runs["data"], runs["backbone"], runs["run"], runs["seed"], strict=True)
    return [Run(logs / data / backbone / run / f"seed{seed}") for data, backbone, run, seed in names]


def runs_table(lines: Iterable[Mapping[str, Any]]) -> tuple[pd.DataFrame, list[str]]:
    """A row per run. Columns:

    - data, backbone, run, seed, identity, stage, selection, settings (those of the identity), line (the record).
    - pipeline; stage1, stage2 and stage3: the objective of each stage, `omp` for one-shot pruning.
    - method: `full`, `mask` or `omp`. assignment, criterion, scores, pattern, language, vision, cross, pooler: the
      sparsity.
    - overall: the overall share of zeros, to three digits. module: the module that alone is pruned, or `all`.
    - sparsity: the share of zeros of what is pruned, so that of the module if it is one.
    - kept, full: parameters of masked matrices and classifier that are not zero, and all of them.
    - id, ood: accuracy in percent in and out of distribution. Answer types: accuracy out of distribution. Every test
      split and mean by its own name. NaN before a test.
    - state: `tested`, `not tested` or `not finished`. curve: its name in a figure.

    Args:
        lines: records of runs, as `line_of` makes them.

    Returns:
        The table, and a line on each record that cannot be used.
    """
    rows, problems = [], []
    for line in lines:
        try:
            rows.append(row_of(line))
        except (ValueError, LookupError, TypeError, AttributeError, ZeroDivisionError) as error:
            name = " ".join(str(line.get(key)) for key in (*RUN, "seed"))
            problems.append(f"{name}: a broken record, or one of an older cdvqa ({error!r})")
    label_curves(rows)
    return pd.DataFrame(rows), problems


def row_of(line: Mapping[str, Any]) -> dict[str, Any]:
    """The row of one run; LookupError, TypeError, ValueError or AttributeError if its record is broken."""
    plan = line["sparsity"] or {}
    method, objectives = plan.get("method", "full"), list(line["pipeline"])
    stages = [*objectives[:1], "omp", *objectives[1:]] if method == "omp" else objectives
    shares = {module: plan.get(module) for module in MODALITIES}
    pruned = [module for module, share in shares.items() if share]
    alone = pruned[0] if len(pruned) == 1 and None not in shares.values() else None
    level = float(plan.get("overall", 0))
    parameters = line.get("parameters") or {"kept": NAN, "full": NAN}
    state = "tested" if line["results"] else "not tested" if line["finished"] else "not finished"
    return {
        **{name: line[name] for name in (*RUN, "seed", "identity", "stage", "settings")},
        "pipeline": "+".join(objectives),
        **{f"stage{number}": stages[number - 1] if number <= len(stages) else "" for number in (1, 2, 3)},
        "method": method,
        **{name: short(plan.get(name)) for name in ("assignment", "criterion", "scores")},
        "pattern": plan.get("pattern", "unstructured") if plan else "",  # records before patterns have none
        **{name: NAN if plan.get(name) is None else float(plan[name]) for name in (*MODALITIES, "pooler")},
        "overall": round(level, 3),
        "module": alone or ("all" if plan else ""),
        "sparsity": round(plan[alone] if alone else level, 3),
        "kept": parameters["kept"],
        "full": parameters["full"],
        "state": state,
        "selection": line["results"].get("selection") or line["selection"] or "",
        **accuracies(line["results"]),
        "line": line,
    }


def short(name: str | None) -> str:
    """The class of a class path; other names as they are."""
    return "" if name is None else str(name).rpartition(".")[2]


def accuracies(results: Mapping[str, Any]) -> dict[str, float]:
    """Every accuracy of a run; the data set itself states which of its test splits are out of distribution.

    Over several splits out of distribution, the accuracy is the data set's own mean, if it has one.
    """
    splits = results.get("splits", {})
    found = {name: split["all"] for name, split in splits.items() if "all" in split} | dict(results.get("means", {}))
    found |= dict.fromkeys(("id", "ood"), NAN) | id_and_ood(splits, results.get("means", {}))
    outside = [split for split in splits.values() if split["distribution"] == "ood" and "all" in split]
    for name in dict.fromkeys(name for split in outside for name in split if name not in ("all", *NOT_SCORES)):
        found[name] = fmean(split[name] for split in outside if name in split)
    return found


def answer_types(runs: pd.DataFrame) -> list[str]:
    """The answer types of the test splits of these runs, in the order of VQA's where it has them."""
    splits = [split for line in runs["line"] for split in line["results"].get("splits", {}).values()]
    found = dict.fromkeys(name for split in splits for name in split if name not in ("all", *NOT_SCORES))
    usual = ("yes/no", "number", "other")
    return [*(name for name in usual if name in found), *(name for name in found if name not in usual)]


def select(runs: pd.DataFrame, wanted: Filter) -> pd.DataFrame:
    """The runs of which every named column, or setting such as `model.lr`, has the value, or one of the values.

    Raises:
        InputError: there is no such column.
    """
    for name, values in plain_keys(wanted, "filter").items():
        if name not in runs and "." not in name:
            raise InputError(f"{name}: no column of the table of runs; there are {', '.join(map(str, runs.columns))}")
        column = runs[name] if name in runs else runs["settings"].map(lambda settings, name=name: settings.get(name))
        values = values if isinstance(values, list) else [values]
        runs = runs[np.array([any(same(value, one) for one in values) for value in column], bool)]
    return runs


def same(value: Any, wanted: Any) -> bool:
    """Whether two values of a column are equal.

    Numbers from 0.01 on are compared to three digits, as shares of zeros are rounded to whole weights.
    """
    if isinstance(value, int | float) and isinstance(wanted, int | float):
        return abs(value - wanted) <= max(5e-4, 1e-3 * abs(wanted)) if abs(wanted) >= 0.01 else value == wanted
    return str(value) == str(wanted)


def label_curves(rows: Sequence[dict[str, Any]]) -> None:
    """Name the curve of each row: its runs differ in the sparsity and nothing else.

    Where one name would stand for several runs of the same sparsity, their shares are added to it; where it would
    stand for runs with other settings, these.
    """
    by_identity = {row["identity"]: row for row in rows}

    def key(row: Mapping[str, Any]) -> tuple[str, ...]:
        return row["data"], row["backbone"], plain_label(row)

    for (*_, label), group in groupby(sorted(rows, key=key), key):
        alike = list(group)
        settings = [training_settings(row, by_identity) for row in alike]
        names = differing(settings)
        shares = [described_shares(row) for row in alike]
        levels = {(row["sparsity"], described_shares(row)) for row in alike}
        crowded = len({level for level, _ in levels}) < len(levels)
        for row, own, share in zip(alike, settings, shares, strict=True):
            parts = [label, *([share] if crowded and share else []), *described(own, names)]
            row["curve"] = ", ".join(parts)


def plain_label(row: Mapping[str, Any]) -> str:
    """What was done in each stage, in the paper's words: `lxmert(bce) + mask train(lmh)`, and the assignment."""
    name = f"{row['backbone']}({row['stage1']})"
    if row["method"] == "full":
        return f"full {name}"
    step = "OMP" if row["method"] == "omp" else f"mask train({row['stage2']})"
    parts = [" + ".join([name, step, *([f"{row['stage3']} ft"] if row["stage3"] else [])])]
    parts += [f"{row['module']} alone"] if row["module"] != "all" else []
    parts += [row["assignment"]] if row["assignment"] != "uniform" and row["module"] == "all" else []
    parts += [row["pattern"]] if row["pattern"] not in ("", "unstructured") else []
    parts += [f"{row['criterion']} start"] if row["criterion"] not in ("", "magnitude") else []
    return ", ".join(parts)


def described_shares(row: Mapping[str, Any]) -> str:
    """The shares of the modules that do not have the overall share: `language 60 %, vision 20 %`."""
    if row["module"] != "all":
        return ""
    shares = {name: row[name] for name in MODALITIES if row[name] == row[name]}
    return ", ".join(f"{name} {percent(s, 1)} %" for name, s in shares.items() if abs(s - row["overall"]) > 1e-3)


def training_settings(row: Mapping[str, Any], by_identity: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A run's settings without its numbers of zeros, and in place of its parent's identity those of the parent."""
    own = {name: value for name, value in row["settings"].items() if not name.startswith("model.sparsity.zeros.")}
    parent = own.pop("parent", {})
    if parent.get("identity") in by_identity:
        above = training_settings(by_identity[parent["identity"]], by_identity)
        parent = above | {name: value for name, value in parent.items() if name != "identity"}
    elif row["stage"] == 3:  # a subnetwork without a record here; its identity depends on the sparsity
        parent = {name: value for name, value in parent.items() if name != "identity"}
    return own | {f"parent.{name}": value for name, value in own_settings(parent).items()}


def described(settings: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """The settings of these names that the run reads: `lr 0.001`; a parent by the first digits of its identity."""
    values = {name: settings[name] for name in names if name in settings}
    values |= {name: str(value["identity"])[:DIGITS] for name, value in values.items() if name == "parent"}
    return [f"{re.sub(PREFIX, '', name)} {value}" for name, value in values.items()]


def spread(values: pd.Series) -> str:
    """Mean ± standard deviation (n − 1) over seeds; empty without any value."""
    values = values.dropna()
    if len(values) < 2:
        return f"{values.iloc[0]:.2f}" if len(values) else ""
    return f"{values.mean():.2f} ± {values.std():.2f}"
