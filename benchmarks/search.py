"""The methods of `cdvqa search` beside uniform shares and the paper's grid: accuracy against what a search costs.

Every seed is a search of its own, so that a method is judged by the mean of what it finds. The grid has one seed; the
best of it are trained with all. Needs `cdvqa prepare scenes`, and `scenes` and `scenes-vs` with `--size micro`. Some
300 runs, which go on where they were stopped.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from cdvqa.sparsity import MODALITIES
from cdvqa.studies.report.table import row_of, spread
from cdvqa.studies.search.command import search_point, uniform_points, with_trial
from cdvqa.studies.search.methods import METHODS
from cdvqa.studies.sweep.command import complete
from cdvqa.studies.sweep.launchers import Local
from cdvqa.studies.sweep.plan import jobs_of
from cdvqa.studies.sweep.records import Lines, read_lines
from cdvqa.studies.sweep.study import RECORDS, Point, overlays, read_study

SPARSITIES = (0.5, 0.7)
SEEDS = {"scenes": 4, "scenes-vs": 2}
BASELINES = ("uniform", "modality_global")
BEST = 3  # assignments of the grid that are trained with all seeds
LOGS, AT_ONCE = Path("logs"), 2


def main() -> None:
    study = read_study("fig8", "micro")
    points = [point for point in uniform_points(study.points) if point.sparsity["overall"] in SPARSITIES]
    rows = [
        row
        for world, seeds in SEEDS.items()
        for point in points
        for row in compare(replace(point, configs=overlays(world, "lxmert", "micro"), seeds=tuple(range(seeds))), world)
    ]
    print(summary(pd.DataFrame(rows)).to_markdown(index=False, disable_numparse=True))


def compare(point: Point, world: str) -> Iterator[dict[str, Any]]:
    """What each method finds at one sparsity, seed by seed."""
    name = "fig8-micro" if world == "scenes" else f"fig8-{world}-micro"
    own = RECORDS / f"{name}.jsonl"
    for assignment in BASELINES:
        baseline = replace(point, sparsity={**point.sparsity, "assignment": assignment})
        yield from trained(baseline, own, {}, method=assignment, cost=1.0)
    known = read_lines(own)
    for method in METHODS:
        path = RECORDS / f"{name}-{method}.jsonl"
        if method == "grid" and world == "scenes":
            search, results = search_point(
                replace(point, seeds=(0,)), method, LOGS, path, known, Local(AT_ONCE), AT_ONCE
            )
            ranked = sorted(results, key=lambda trial: results[trial].dev, reverse=True)[:BEST]
            cost = search.cost(results) + len(ranked) * (len(point.seeds) - 1)
            found = [list(trained(with_trial(point, trial), path, known, method=method, cost=cost)) for trial in ranked]
            yield from max(found, key=lambda rows: sum(row["dev"] for row in rows))
        elif method != "grid":
            for seed in point.seeds:
                one = replace(point, seeds=(seed,))
                search, results = search_point(one, method, LOGS, path, known, Local(AT_ONCE), AT_ONCE)
                best = with_trial(one, search.best(results))
                yield from trained(best, path, known, method=method, cost=search.cost(results))


def trained(point: Point, path: Path, known: Lines, **columns: Any) -> Iterator[dict[str, Any]]:
    """A row for each seed of a point, which is trained if it is not recorded."""
    jobs = jobs_of([point], LOGS)
    complete(jobs, path, known | read_lines(path), Local(AT_ONCE), AT_ONCE)
    lines = known | read_lines(path)
    for job in jobs:
        line = lines[job.identity, job.seed]
        row = row_of(line)
        shares = {name: 100 * line["selected"]["sparsity"][name] for name in MODALITIES}
        accuracies = {"dev": line["dev"], "id": row["id"], "ood": row["ood"]}
        yield {"world": row["data"], "zeros": row["overall"], **columns, "seed": job.seed, **shares, **accuracies}


def summary(found: pd.DataFrame) -> pd.DataFrame:
    """One row per world, sparsity and method: mean cost and shares, and mean ± standard deviation of accuracies."""
    rows = []
    for (world, zeros, method), seeds in found.groupby(["world", "zeros", "method"], sort=False):
        shares = {name: f"{seeds[name].mean():.0f} %" for name in MODALITIES}
        scores = {name: spread(seeds[name]) for name in ("dev", "id", "ood")}
        cells = {"world": world, "zeros": f"{zeros:.0%}", "method": method, "trainings": f"{seeds['cost'].mean():.1f}"}
        rows.append(cells | shares | scores | {"seeds": len(seeds)})
    return pd.DataFrame(rows)


if __name__ == "__main__":
    main()
