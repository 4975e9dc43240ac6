"""Every tested run under a logs folder, as one table."""

from pathlib import Path
from typing import Any

import pandas as pd

from cdvqa.errors import InputError
from cdvqa.files import read_json
from cdvqa.runs.folder import Run

OOD = "out of distribution"
ID = "in distribution"
PLACES = {"id": ID, "ood": OOD}  # as the data set says of each of its splits; of several the mean is taken
KEYS = ["data", "backbone", "run", "stage", "pipeline", "method", "assignment", "criterion", "zeros", "kept"]


def read_runs(logs: Path) -> pd.DataFrame:
    """One row per tested run and place (in or out of distribution).

    Columns: those of `KEYS`, seed, selection, place, accuracy (percent), questions. `zeros` is the share of zeros
    asked for, `kept` the share of parameters (masked matrices and classifier) that are not zero.

    Raises:
        InputError: no run under `logs` has been tested.
    """
    rows = [row for path in sorted(logs.glob("*/*/*/seed*/results.json")) for row in rows_of(Run(path.parent))]
    if not rows:
        raise InputError(f"{logs}: no tested run here; `cdvqa test --config …` writes results.json")
    return pd.DataFrame(rows)


def rows_of(run: Run) -> list[dict[str, Any]]:
    """The rows of one run."""
    record, results = read_json(run.record), read_json(run.results)
    sparsity = record["sparsity"] or {}
    data, backbone, name, seed = run.folder.parts[-4:]
    shared = {
        "data": data,
        "backbone": backbone,
        "run": name,
        "stage": record["stage"],
        "pipeline": "+".join(record["pipeline"]),
        "method": sparsity.get("method", "full"),
        "assignment": sparsity.get("assignment", ""),
        "criterion": sparsity.get("criterion", ""),
        "zeros": sparsity.get("overall", 0.0),
        "kept": record["parameters"]["kept"] / record["parameters"]["full"],
        "seed": int(seed.removeprefix("seed")),
        "selection": results["selection"],
    }
    splits = {PLACES[result["distribution"]]: result for result in results["splits"].values()}
    accuracies = {place: (result["all"], result["n"]["all"]) for place, result in splits.items() if "all" in result}
    if "ood_mean" in results.get("means", {}):
        accuracies[OOD] = (
            results["means"]["ood_mean"],
            sum(result["n"]["all"] for result in results["splits"].values() if result["distribution"] == "ood"),
        )
    return [
        shared | {"place": place, "accuracy": accuracy, "questions": questions}
        for place, (accuracy, questions) in accuracies.items()
    ]


def over_seeds(runs: pd.DataFrame) -> pd.DataFrame:
    """Mean, standard deviation (n − 1; empty for one seed) and number of seeds of each run and place."""
    grouped = runs.groupby([*KEYS, "place"], sort=False)["accuracy"]
    return grouped.agg(mean="mean", std="std", seeds="count").reset_index()


def markdown(runs: pd.DataFrame) -> str:
    """The table to read: a line per run, both places side by side, mean ± standard deviation over seeds."""
    means = over_seeds(runs)
    means["text"] = [
        f"{mean:.2f}" if pd.isna(std) else f"{mean:.2f} ± {std:.2f}"
        for mean, std in zip(means["mean"], means["std"], strict=True)
    ]
    wide = means.pivot(index=["data", "backbone", "run", "kept", "seeds"], columns="place", values="text").reset_index()
    wide["kept"] = [f"{100 * kept:.1f} %" for kept in wide["kept"]]
    columns = ["data", "backbone", "run", "kept", "seeds", *(place for place in (ID, OOD) if place in wide)]
    return wide[columns].to_markdown(index=False, disable_numparse=True)
