"""What TensorBoard shows of a run: the charts, in their order, the row of settings, and a page of text.

docs/DASHBOARD.md lists the tags.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from tensorboard.plugins.hparams.summary_v2 import Discrete, HParam, Metric, RealInterval

ID_ACCURACY, OOD_ACCURACY = "hp/id_accuracy", "hp/ood_accuracy"  # of the test, in percent
KEPT_ID, KEPT_OOD = "kept/id_accuracy", "kept/ood_accuracy"  # by percent of kept weights, in place of steps
METRICS = [Metric(ID_ACCURACY, display_name="ID accuracy"), Metric(OOD_ACCURACY, display_name="OOD accuracy")]
SPEED, PROCESS_MEMORY, GPU_MEMORY = "machine/questions_per_second", "machine/process_memory", "machine/gpu_memory"
LEARNING_RATE = "train/learning_rate"
PARTS = "(overall|language|vision|cross|pooler)"
Layout = dict[str, dict[str, list[Any]]]


def layout(question_types: Iterable[str] = (), answer_types: Iterable[str] = ()) -> Layout:
    """The page of custom scalars, as `SummaryWriter.add_custom_scalars` takes it: charts by title, by category.

    A chart shows the tags that its patterns match; with many runs it has a line for each of them.
    """
    groups = ["all", *(name.replace("/", "_") for name in answer_types)]
    return {
        "ID and OOD": {
            "ID, test": chart(ID_ACCURACY),
            "OOD, test": chart(OOD_ACCURACY),
            "ID and OOD, test": chart(f"({ID_ACCURACY}|{OOD_ACCURACY})"),
            "development split": chart("val/accuracy/all"),
        },
        "accuracy by answer type": {name: chart(f"val/accuracy/{re.escape(name)}") for name in groups},
        "test accuracy by answer type": {f"{name}, test": chart(f"test/[^/]+/{re.escape(name)}") for name in groups},
        "loss": {
            "whole loss": chart("train/loss/total"),
            "terms": chart("train/loss/(?!total|epoch).+"),
            "mean of each epoch": chart("train/loss/epoch"),
            "gradient norm": chart("train/gradient_norm"),
        },
        "masks": {
            "sparsity by modality": chart(f"sparsity/{PARTS}"),
            "threshold by modality": chart("mask/threshold/(language|vision|cross|pooler)"),
            "flips since the reset before": chart(f"mask/flips/{PARTS}"),
            "overlap with the start": chart(f"mask/overlap/{PARTS}"),
        },
        "objective": {
            "gate of LMH": chart("objective/gate"),
            "other quantities": chart("objective/(?!gate$).+"),
        },
        "optimisation and machine": {
            "learning rate": chart(LEARNING_RATE),
            "questions per second": chart(SPEED),
            "memory of the process (GiB, peak)": chart(PROCESS_MEMORY),
            "memory of the GPU (GiB, peak)": chart(GPU_MEMORY),
        },
        "accuracy by question type": {
            name: chart(f"val/question_type/{re.escape(name)}") for name in sorted(question_types)
        },
    }


def chart(pattern: str) -> list[Any]:
    """A chart of the tags that `pattern` matches as a whole."""
    return ["Multiline", [f"{pattern}$"]]


def row_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """A run's row of settings: what its name says, and every setting of its identity (`run.json`).

    TensorBoard sorts the columns by name and shows the first five; those with a capital come first.
    """
    plan = record["sparsity"] or {"method": "full", "assignment": "none", "criterion": "none", "overall": 0.0}
    row = {"Stage": record["stage"], "Pipeline": "+".join(record["pipeline"]), "Seed": record["seed"]}
    row |= {"Method": plan["method"], "Sparsity": plan["overall"], "preset": record["preset"]}
    row |= {key: plan[key] for key in ("assignment", "criterion")}
    return row | {name: plain(value) for name, value in record["settings"].items() if value is not None}


def plain(value: Any) -> bool | int | float | str:
    """A value of a setting as HParams has them; a run is its digest's first digits."""
    if isinstance(value, Mapping):
        return ", ".join(str(part)[:8] for part in value.values())
    return value if isinstance(value, bool | int | float | str) else str(value)


def columns(rows: Iterable[Mapping[str, Any]]) -> list[HParam]:
    """The columns of HParams: each setting that is not the same in all rows that have it."""
    values: dict[str, set[Any]] = {}
    for row in rows:
        for name, value in row.items():
            values.setdefault(name, set()).add(value)
    return [HParam(name, domain(found)) for name, found in values.items() if len(found) > 1]


def domain(values: set[Any]) -> Discrete | RealInterval:
    """Where values may be: TensorBoard offers a range of numbers, and a list of anything else."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return RealInterval(float(min(values)), float(max(values)))
    kinds = {type(value) for value in values}
    return Discrete(values if len(kinds) == 1 else {str(value) for value in values})


def page(record: Mapping[str, Any]) -> str:
    """A run in Markdown: what it is, what it started from, and how it ended (`run.json`)."""
    parent, plan, chosen = record["parent"], record["sparsity"], record.get("selected")
    shares = ("overall", "language", "vision", "cross", "pooler")
    rows = {
        "identity": f"`{record['identity']}`",
        "stage": record["stage"],
        "pipeline": " + ".join(record["pipeline"]),
        "seed": record["seed"],
        "parent": source(parent) if parent else "none: starts from published weights",
        "preset": record["preset"],
        "departures": listed(record["departures"]) or "none",
        "selection": record["selection"],
        "backbone": listed(record["backbone"]),
        "sparsity": "none" if plan is None else f"{plan['method']}, {plan['assignment']}, {plan['criterion']}",
        "share of zeros": listed({name: plan[name] for name in shares if plan and name in plan}),
        "started": record["started"],
        "finished": record["finished"] or "not yet",
    }
    if chosen is not None:
        rows["selected"] = f"step {chosen['step']} of {record['steps']}, by {chosen['by']}"
        kept, full = (record["parameters"][key] for key in ("kept", "full"))
        rows["kept parameters"] = f"{kept:,} of {full:,} ({100 * kept / full:.1f} %)"
    packages = record.get("packages", {})
    rows |= {"packages": listed(packages), "revision": record.get("git") or "installed"}
    table = [f"| {name} | {str(value).replace('|', '/')} |" for name, value in rows.items() if value != ""]
    settings = [f"| {name} | {plain(value)} |" for name, value in record["settings"].items() if value is not None]
    return "\n".join(["| run | |", "| --- | --- |", *table, "", "| setting | |", "| --- | --- |", *settings])


def source(parent: Mapping[str, Any]) -> str:
    """The network that a run started from, with the identity of its run, or the digest of a bare file."""
    return f"`{parent['network']}`, `{parent.get('identity') or parent.get('tensors')}`"


def listed(values: Mapping[str, Any]) -> str:
    """`name value` of each entry."""
    return ", ".join(f"{name} {value}" for name, value in values.items())
