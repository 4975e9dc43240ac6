"""`cdvqa search`: find the shares of zeros of the modalities at the overall sparsity of a study."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import pandas as pd

from cdvqa.cli.inspect import ConfigInspector
from cdvqa.cli.parsing import OneLineParser
from cdvqa.errors import InputError, Stopped
from cdvqa.files import write_atomically
from cdvqa.runs.folder import percent
from cdvqa.sparsity import MODALITIES, solve_budget
from cdvqa.studies.search.methods import METHODS, Outcome, Results, Search, Trial
from cdvqa.studies.sweep.command import StudyOptions, complete
from cdvqa.studies.sweep.launchers import Launcher
from cdvqa.studies.sweep.plan import job_of, jobs_of
from cdvqa.studies.sweep.records import Lines, read_lines
from cdvqa.studies.sweep.study import Point


def run(args: list[str]) -> None:
    """Run `cdvqa search` with command-line arguments."""
    parser = OneLineParser(prog="cdvqa search", description=search.__doc__.splitlines()[0])  # type: ignore[union-attr]
    StudyOptions.add_to(parser)
    parser.add_function_arguments(search, skip={"options"}, as_group=False)
    given = parser.parse_args(args[1:]).as_dict()
    search(StudyOptions.take_from(given), **given)


def search(options: StudyOptions, method: Literal["auto", "grid", "random"] = "auto") -> None:
    """Find the shares of zeros of the modalities at the overall sparsity of each mask training of a study.

    Assignments are compared on the development split alone, by the mean over the seeds.

    Args:
        options: the study, and where it runs.
        method: auto (from the loss before mask training, then one training), grid (the paper's, App. C.4), or random
            (at 15 % of the grid's cost).
    """
    plan = options.read_study()
    name = f"{plan.name}-{method}"
    path = options.records / f"{name}.jsonl"
    launcher = options.make_launcher(name)
    known = read_lines(options.records / f"{plan.name}.jsonl")
    points = uniform_points(plan.points)
    if not points:
        raise InputError(f"{plan.name}: no mask training at a given sparsity to search for")
    pages = []
    for point in points:
        searching, results = search_point(point, method, options.logs, path, known, launcher, options.jobs)
        pages.append(section(point, searching, results))
        print(pages[-1])
    with write_atomically(path.with_suffix(".md")) as temporary:
        temporary.write_text("\n".join([f"# {name}", "", *pages]), encoding="utf-8")
    print(f"written: {path.with_suffix('.md')}")


def search_point(
    point: Point, method: str, logs: Path, path: Path, known: Lines, launcher: Launcher, at_once: int
) -> tuple[Search, Results]:
    """Run a whole search at one overall sparsity; return it with the results of its trials.

    Args:
        point: a mask training.
        method: one of `METHODS`.
        logs: the logs folder.
        path: the records of the trials; those that are there count as done.
        known: the study's own records, which count too.
        launcher: runs the trials.
        at_once: how many at a time.

    Raises:
        InputError: the runs are selected on test, so they have no development accuracy; or `auto` cannot measure them.
        Stopped: no trial of a step could be trained.
    """
    overall, seed = point.sparsity["overall"], point.seeds[0]
    job = job_of(point, seed, logs)
    if job.source and job.source.record["selection"] == "test":
        raise InputError(
            f"{point}: selected on test; a search judges by the development split: give another model.selection"
        )
    config = ConfigInspector(list(job.args))
    if method == "auto" and config.model.sparsity.pattern != "unstructured":
        raise InputError(f"{point}: auto measures unstructured masks; use --method grid or random for this pattern")
    searching = METHODS[method](overall, config.model.backbone.counts(), seed)
    results: dict[Trial, Outcome] = {}
    while trials := searching.next(results):
        asked = {trial: jobs_of([with_trial(point, trial)], logs) for trial in trials}
        jobs = [job for of_trial in asked.values() for job in of_trial]
        complete(jobs, path, known | read_lines(path), launcher, at_once)
        lines = known | read_lines(path)
        found = {trial: [lines.get((job.identity, job.seed), {}) for job in asked[trial]] for trial in trials}
        new = {trial: outcome_of(trial, rows) for trial, rows in found.items() if all(rows)}
        if not new:
            raise Stopped(f"{path.stem}: no assignment of the last {len(trials)} could be trained; see the logs")
        results |= new
    return searching, results


def uniform_points(points: Sequence[Point]) -> list[Point]:
    """The mask trainings of a study without their assignments, which the search finds; each once."""
    found: dict[tuple[Any, ...], Point] = {}
    for point in points:
        if point.method == "mask" and len(point.pipeline) == 2 and "overall" in point.sparsity:
            kept = {key: value for key, value in point.sparsity.items() if key not in ("assignment", *MODALITIES)}
            found.setdefault((point.configs, point.pipeline, *kept.items()), replace(point, sparsity=kept))
    return list(found.values())


def with_trial(point: Point, trial: Trial) -> Point:
    """The point with a trial's shares; if the trial has a callback, with the callback and for a single step."""
    shares = {"assignment": "modality", "language": trial.language, "vision": trial.vision}
    changed = {"trainer.max_steps": 1, "trainer.callbacks+": trial.callback} if trial.callback else {}
    settings = dict(point.settings) | {2: {**point.settings[2], **changed}}
    return replace(point, sparsity={**point.sparsity, **shares}, settings=settings)


def outcome_of(trial: Trial, lines: Sequence[Mapping[str, Any]]) -> Outcome:
    """The mean outcome of a trial over the records of its seeds."""
    found = [line["selected"]["sparsity"] for line in lines] if trial.callback else []
    shares = {name: fmean(of_seed[name] for of_seed in found) for name in MODALITIES if found}
    return Outcome(fmean(line["dev"] for line in lines), shares)


def section(point: Point, searching: Search, results: Results) -> str:
    """Markdown: the options of the best assignment of a point, and a table of all trained ones, the best first."""
    rows = []
    trained = [trial for trial in results if not trial.callback]
    for trial in sorted(trained, key=lambda trial: results[trial].dev, reverse=True):
        shares = solve_budget(searching.overall, trial.language, trial.vision, counts=searching.counts)
        cells = {modality: f"{percent(share, 1)} %" for modality, share in shares.items()}
        rows.append(cells | {"development split": f"{results[trial].dev:.2f}"})
    best = searching.best(results)
    options = f"--model.sparsity.assignment modality --model.sparsity.overall {searching.overall:g}"
    options += f" --model.sparsity.language {best.language:.4f} --model.sparsity.vision {best.vision:.4f}"
    table = pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)
    cost = f"Full trainings a seed: {searching.cost(results)}."
    return f"## {point}\n\n{cost} Best: `{options}`\n\n{table}\n"
