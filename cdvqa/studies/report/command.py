"""`cdvqa report`: tables, figures and verdicts of runs, from their folders or from the records of a study."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Optional

import pandas as pd
from jsonargparse import ActionYesNo

from cdvqa.cli.parsing import OneLineParser
from cdvqa.errors import InputError
from cdvqa.files import write_atomically
from cdvqa.studies.report import convergence, overlap
from cdvqa.studies.report.figures import figures_of
from cdvqa.studies.report.page import page
from cdvqa.studies.report.questions import browse
from cdvqa.studies.report.table import read_logs, runs_table
from cdvqa.studies.report.tables import Table, list_runs, tables_of
from cdvqa.studies.report.verdicts import DRAWS, verdict_table, verdicts
from cdvqa.studies.sweep.plan import jobs_of
from cdvqa.studies.sweep.records import read_lines
from cdvqa.studies.sweep.study import Study, read_study

VERDICTS = (
    f"Difference in points, averaged over pairs of runs of the same seed. 95 % interval: {DRAWS:,} draws of seeds and, "
    "in each, of questions. Holds: its lower end is above the margin; does not hold: its upper end is below it."
)
NAMES = 20  # of runs in a note


def run(args: list[str]) -> None:
    """Run `cdvqa report` with command-line arguments."""
    parser = OneLineParser(prog="cdvqa report", description=report.__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_function_arguments(report, skip={"runs"}, as_group=False)
    parser.add_argument("--runs", action=ActionYesNo, default=False, help="Only list runs and how they differ.")
    report(**parser.instantiate_classes(parser.parse_args(args[1:])))


def report(
    logs: Path = Path("logs"),
    records: Optional[Path] = None,
    study: Optional[str] = None,
    size: Optional[Literal["micro"]] = None,
    output: Optional[Path] = None,
    runs: bool = False,
) -> None:
    """Tables, figures, verdicts and single questions of all tested runs, or of those of a study.

    Args:
        logs: folder that holds <data>/<backbone>/<run>/seed<k>/.
        records: a study's records, such as docs/study/fig2-micro.jsonl, in place of the run folders' results. Masks and
            single questions are of the run folders that are there.
        study: a file, or the name of a shipped study such as fig2; only its runs, with its figure and its claims.
        size: micro for the study on the small embedded world.
        output: folder for report.html, report.md, runs.csv, tables/ and figures/, which may hold an earlier report;
            <logs>/report[/<study>] where null.
        runs: print all runs and the settings in which they differ, instead; nothing is written.
    """
    if size and not study:
        raise InputError("--size is of a study: give --study as well")
    if (
        output
        and output.exists()
        and not (output / "report.html").is_file()
        and (not output.is_dir() or any(output.iterdir()))
    ):
        raise InputError(f"--output {output}: holds other files, and no report; name a new folder")
    plan = read_study(study, size) if study else None
    if records and not records.is_file():
        raise InputError(f"{records}: no such file; `cdvqa sweep` writes it")
    lines, problems = (list(read_lines(records).values()), []) if records else read_logs(logs)
    source = records or logs
    notes = []
    if plan:
        wanted = {(job.identity, job.seed): job.name for job in jobs_of(plan.points, logs)}
        lines = [line for line in lines if (line["identity"], line["seed"]) in wanted]
        missing = wanted.keys() - {(line["identity"], line["seed"]) for line in lines}
        if missing:
            absent = listed([wanted[key] for key in missing])
            notes.append(f"Not run: {len(missing)} of {len(wanted)} runs of the study: {absent}.")
    table, broken = runs_table(lines)
    problems += broken
    for problem in problems:
        print(f"left out: {problem}")
    if table.empty:
        remedy = f"run of {plan.name} here; `cdvqa sweep {study}`" if plan else "run here; `cdvqa fit --config …`"
        raise InputError(f"{source}: no {remedy} makes {'them' if plan else 'one'}")
    if runs:
        print(list_runs(table).to_markdown(index=False, disable_numparse=True))
        return
    tested = table[table["state"] == "tested"]
    if tested.empty:
        raise InputError(f"{source}: no tested run here; `cdvqa test --config …` writes results.json")
    notes = [f"Models selected on: {', '.join(sorted(set(tested['selection'])))}.", *notes]
    for state, rows in table[table["state"] != "tested"].groupby("state"):
        names = [f"{row.data} {row.backbone} {row.run} seed{row.seed}" for row in rows.itertuples()]
        notes.append(f"{str(state).capitalize()}: {listed(names)}.")
    notes += [f"Left out: {problem}." for problem in problems]
    folder = output or (logs / "report" / plan.name if plan else logs / "report")
    print(write_report(tested, logs, plan, notes, folder))


def listed(names: list[str]) -> str:
    """The first names in order, and how many more there are."""
    more = f" and {len(names) - NAMES} more" if len(names) > NAMES else ""
    return ", ".join(sorted(names)[:NAMES]) + more


def write_report(tested: pd.DataFrame, logs: Path, study: Study | None, notes: list[str], output: Path) -> str:
    """Write every file of a report and return its text."""
    name = study.name if study else "runs"
    figures = figures_of(tested, study.figure if study else None, name)
    if study and study.figure and not any(figure.name.startswith(f"{name}_") for figure in figures):
        notes = [*notes, "The study's figure is not here: no run has the accuracy that it shows."]
    tables = tables_of(tested)
    if study and study.claims:
        if not isinstance(study.claims, list):
            raise InputError(f"study {name}: claims: expected a list")
        judged = verdict_table(verdicts(tested, study.claims))
        tables.insert(0, Table("verdicts", "Verdicts", judged, VERDICTS))
    curves = convergence.convergence_table(tested, logs)
    masks, unread = overlap.overlap_table(tested, logs)
    browser, unshown = browse(tested, logs)
    notes = [*notes, *(f"{line[0].upper()}{line[1:]}." for line in (*unread, *unshown))]
    tables += [Table("convergence", "Convergence", curves, convergence.NOTE)] if len(curves) else []
    tables += [Table("masks", "Overlap of masks", masks, overlap.NOTE)] if len(masks) else []
    for table in tables:
        table.write(output / "tables")
    for figure in figures:
        figure.write(output / "figures")
    title = f"Study {study.name}" if study else "Results"
    about = study.about if study else ""
    parts = [f"# {title}", *filter(None, [about]), *notes]
    for table in tables:
        parts += [f"## {table.title}", *filter(None, [table.note]), table.markdown]
    parts += [f"![{figure.title}](figures/{figure.name}.png)" for figure in figures]
    pages: Mapping[str, Any] = {
        "report.md": "\n\n".join(parts) + "\n",
        "report.html": page(title, about, notes, tables, figures, browser),
        "runs.csv": tested.drop(columns=["settings", "line"]).to_csv(index=False),
    }
    for file, text in pages.items():
        with write_atomically(output / file) as temporary:
            temporary.write_text(text, encoding="utf-8")
    shown = [table.markdown for table in tables if table.name in ("verdicts", "results")]
    return "\n\n".join(
        [*shown, *notes, f"written: {output / 'report.html'}, report.md, runs.csv, tables/ and figures/"]
    )
