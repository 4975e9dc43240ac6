"""`cdvqa report`: tables, figures and verdicts of runs, from their folders or from the records of a study."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Optional, Union

import pandas as pd
from jsonargparse import ActionYesNo

from cdvqa.cli.parsing import OneLineParser
from cdvqa.errors import InputError
from cdvqa.files import write_atomically
from cdvqa.messages import progress_bar
from cdvqa.studies.report import convergence, overlap
from cdvqa.studies.report.figures import study_figures, usual_figures
from cdvqa.studies.report.page import page
from cdvqa.studies.report.questions import browse
from cdvqa.studies.report.table import read_logs, runs_table
from cdvqa.studies.report.tables import Table, list_runs, tables_of
from cdvqa.studies.report.verdicts import DRAWS, verdict_table, verdicts
from cdvqa.studies.sweep.plan import jobs_of
from cdvqa.studies.sweep.records import read_lines
from cdvqa.studies.sweep.study import RECORDS, Study, read_study

VERDICTS = (
    f"Difference in points, averaged over pairs of runs of the same seed. 95 % interval: {DRAWS:,} draws of seeds and, "
    "in each, of questions. Holds: its lower end is above the margin; does not hold: its upper end is below it."
)
NAMES = 20  # runs that a note names


def run(args: list[str]) -> None:
    """Run `cdvqa report` with command-line arguments."""
    parser = OneLineParser(prog="cdvqa report", description=report.__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_function_arguments(report, skip={"runs"}, as_group=False)
    parser.add_argument("--runs", action=ActionYesNo, default=False, help="Only list runs and how they differ.")
    report(**parser.instantiate_classes(parser.parse_args(args[1:])))


def report(
    logs: Path = Path("logs"),
    records: Optional[Path] = None,
    study: Optional[Union[list[str], str]] = None,
    size: Optional[Literal["micro"]] = None,
    output: Optional[Path] = None,
    runs: bool = False,
) -> None:
    """Tables, figures, verdicts and single questions of all tested runs, or of those of studies.

    Args:
        logs: folder that holds <data>/<backbone>/<run>/seed<k>/.
        records: a study's records, such as docs/study/fig2-micro.jsonl, or the folder of all, in place of the run
            folders' results. Masks and single questions are of the run folders that are there.
        study: a file, or the name of a shipped study such as fig2, or a list of them; only their runs, with their
            figures and their claims.
        size: micro for the study on the small embedded world.
        output: folder for report.html, report.md, runs.csv, tables/ and figures/, which may hold an earlier report;
            <logs>/report[/<study>] where null.
        runs: print all runs and the settings in which they differ, instead; nothing is written.
    """
    if size and not study:
        raise InputError("--size is of a study: give --study as well")
    if output:
        refuse_other_files(output)
    studies = [study] if isinstance(study, str) else list(dict.fromkeys(study or []))
    folder = RECORDS if records is None else records if records.is_dir() else records.parent
    plans = [read_study(name, size, records=folder) for name in studies]
    lines, problems = (read_records(records, plans), []) if records else read_logs(logs)
    notes: list[str] = []
    wanted = [runs_of(plan, logs, records, notes) for plan in plans]
    if plans:
        lines = [line for line in lines if any((line["identity"], line["seed"]) in jobs for jobs in wanted)]
    found = {(line["identity"], line["seed"]) for line in lines}
    for plan, jobs in zip(plans, wanted, strict=True):
        if missing := jobs.keys() - found:
            named = "the study" if len(plans) == 1 else plan.name
            absent = listed([jobs[key] for key in missing])
            notes.append(f"Not run: {len(missing)} of {len(jobs)} runs of {named}: {absent}.")
    table, broken = runs_table(lines)
    problems += broken
    for problem in problems:
        print(f"left out: {problem}")
    name = "+".join(plan.name for plan in plans)
    if table.empty:
        remedy = f"run of {name} here; `cdvqa sweep {studies[0]}`" if plans else "run here; `cdvqa fit --config …`"
        raise InputError(f"{records or logs}: no {remedy} makes {'them' if plans else 'one'}")
    if runs:
        print(list_runs(table).to_markdown(index=False, disable_numparse=True))
        return
    tested = table[table["state"] == "tested"]
    if tested.empty:
        raise InputError(f"{records or logs}: no tested run here; `cdvqa test --config …` writes results.json")
    notes = [f"Models selected on: {', '.join(sorted(set(tested['selection'])))}.", *notes]
    for state, rows in table[table["state"] != "tested"].groupby("state"):
        names = [f"{row.data} {row.backbone} {row.run} seed{row.seed}" for row in rows.itertuples()]
        notes.append(f"{str(state).capitalize()}: {listed(names)}.")
    notes += [f"Left out: {problem}." for problem in problems]
    keys = pd.Series(list(zip(tested["identity"], tested["seed"], strict=True)), tested.index)
    of_studies = [(plan, tested[keys.isin(jobs)]) for plan, jobs in zip(plans, wanted, strict=True)]
    with progress_bar("verdicts, tables and figures"):
        written = write_report(tested, logs, of_studies, notes, output or logs / "report" / name)
    print(written)


def refuse_other_files(output: Path) -> None:
    """Raise InputError if `output` is a file, or a folder with other things than an earlier report."""
    empty = not output.exists() or (output.is_dir() and not any(output.iterdir()))
    if not empty and not (output / "report.html").is_file():
        raise InputError(f"--output {output}: holds other files, and no report; name a new folder")


def read_records(records: Path, plans: Sequence[Study]) -> list[dict[str, Any]]:
    """The lines of one file, or of the studies' files in a folder; a study without a file has no runs yet.

    Raises:
        InputError: there is no such file, or a line is broken.
    """
    files = [records]
    if records.is_dir():
        files = [file for plan in plans if (file := records / f"{plan.name}.jsonl").is_file()]
    if not files or not all(file.is_file() for file in files):
        raise InputError(f"{records}: no such file, or no records of a study in it; `cdvqa sweep` writes them")
    return list({key: line for file in files for key, line in read_lines(file).items()}.values())


def runs_of(plan: Study, logs: Path, records: Path | None, notes: list[str]) -> dict[tuple[str, int], str]:
    """Names of a study's runs by identity and seed. Where its world is not there, those of its own records, and a note.

    Raises:
        InputError: the runs cannot be planned, and there are no records of the study.
    """
    try:
        return {(job.identity, job.seed): job.name for job in jobs_of(plan.points, logs)}
    except InputError as error:
        own = records / f"{plan.name}.jsonl" if records and records.is_dir() else records
        if own is None or own.stem != plan.name:
            raise
        notes.append(f"All records of {plan.name} are shown, as its runs cannot be planned here ({error}).")
        return {key: line["run"] for key, line in read_lines(own).items()}


def listed(names: list[str]) -> str:
    """The first names in alphabetical order, and how many more there are."""
    more = f" and {len(names) - NAMES} more" if len(names) > NAMES else ""
    return ", ".join(sorted(names)[:NAMES]) + more


def write_report(
    tested: pd.DataFrame, logs: Path, studies: Sequence[tuple[Study, pd.DataFrame]], notes: list[str], output: Path
) -> str:
    """Write every file of a report and return what the command prints.

    Args:
        tested: all runs of the report.
        logs: the logs folder, for masks and single questions.
        studies: each study with its runs.
        notes: what a reader has to know.
        output: the folder.

    Raises:
        InputError: claims or figure of a study are wrong.
    """
    figures, judged = [], []
    for study, runs in studies:
        own = study_figures(runs, study.figure, study.name) if study.figure else []
        if study.figure and not own:
            notes = [*notes, f"The figure of {study.name} is not here: no run has the accuracy that it shows."]
        figures += own
        if study.claims:
            if not isinstance(study.claims, list):
                raise InputError(f"study {study.name}: claims: expected a list")
            verdict = verdict_table(verdicts(runs, study.claims))
            judged.append(verdict.assign(study=study.name) if len(studies) > 1 else verdict)
    figures += usual_figures(tested, [study.figure for study, _ in studies])
    tables = tables_of(tested)
    if judged:
        tables.insert(0, Table("verdicts", "Verdicts", pd.concat(judged, ignore_index=True), VERDICTS))
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
    names = ", ".join(study.name for study, _ in studies)
    title = f"{'Study' if len(studies) == 1 else 'Studies'} {names}" if studies else "Results"
    about = studies[0][0].about if len(studies) == 1 else ""
    parts = [f"# {title}", *filter(None, [about]), *notes]
    for table in tables:
        parts += [f"## {table.title}", *filter(None, [table.note]), table.markdown]
    parts += [f"![{figure.title}](figures/{figure.name}.png)" for figure in figures]
    texts = {
        "report.md": "\n\n".join(parts) + "\n",
        "report.html": page(title, about, notes, tables, figures, browser),
        "runs.csv": tested.drop(columns=["settings", "line"]).to_csv(index=False),
    }
    for file, text in texts.items():
        with write_atomically(output / file) as temporary:
            temporary.write_text(text, encoding="utf-8")
    shown = [table.markdown for table in tables if table.name in ("verdicts", "results")]
    return "\n\n".join(
        [*shown, *notes, f"written: {output / 'report.html'}, report.md, runs.csv, tables/ and figures/"]
    )
