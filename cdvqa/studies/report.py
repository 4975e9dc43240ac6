"""`cdvqa report`: the results under a logs folder as a table and figures."""

from pathlib import Path

import pandas as pd
from jsonargparse import ActionYesNo

from cdvqa.cli.parsing import OneLineParser
from cdvqa.errors import InputError
from cdvqa.files import write_atomically
from cdvqa.runs.identity import differing
from cdvqa.studies.figure import plot_accuracy
from cdvqa.studies.table import RUN, described, markdown, read_runs


def run(args: list[str]) -> None:
    """Run `cdvqa report` with command-line arguments."""
    parser = OneLineParser(prog="cdvqa report", description=report.__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_function_arguments(report, skip={"runs"}, as_group=False)
    parser.add_argument("--runs", action=ActionYesNo, default=False, help="Only list runs and how they differ.")
    report(**parser.instantiate_classes(parser.parse_args(args[1:])))


def report(logs: Path = Path("logs"), output: Path | None = None, runs: bool = False) -> None:
    """Tabulate every tested run and draw accuracy against kept parameters.

    Args:
        logs: folder that holds `<data>/<backbone>/<run>/seed<k>/`.
        output: folder for report.md, runs.csv and one figure per data set and backbone; the logs folder where null.
        runs: print all runs and the settings in which they differ, instead; nothing is written.
    """
    output = output or logs
    table, problems = read_runs(logs)
    for problem in problems:
        print(f"left out: {problem}")
    if table.empty:
        raise InputError(f"{logs}: no run here; `cdvqa fit --config …` makes one")
    if runs:
        print(list_runs(table))
        return
    tested = table[table["state"] == "tested"]
    if tested.empty:
        raise InputError(f"{logs}: no tested run here; `cdvqa test --config …` writes results.json")
    figures = []
    for (data, backbone), group in tested.groupby(["data", "backbone"], sort=False):
        figures.append(output / f"accuracy_{data}_{backbone}.png")
        plot_accuracy(group, figures[-1])
    with write_atomically(output / "runs.csv") as temporary:
        tested.drop(columns=["settings", "plan"]).to_csv(temporary, index=False)
    notes = [f"Models selected on: {', '.join(sorted(set(tested['selection'])))}."]
    for state, rows in table[table["state"] != "tested"].groupby("state"):
        names = [f"{row.data} {row.backbone} {row.run} seed{row.seed}" for row in rows.itertuples()]
        notes.append(f"{str(state).capitalize()}: {', '.join(names)}.")
    notes += [f"Left out: {problem}." for problem in problems]
    parts = ["# Results", markdown(tested, RUN), *notes]
    parts += [f"![accuracy against kept parameters]({path.name})" for path in figures]
    with write_atomically(output / "report.md") as temporary:
        temporary.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    print("\n\n".join(parts[1 : 2 + len(notes)]))
    print(f"\nwritten: {output / 'report.md'}, {output / 'runs.csv'}, {', '.join(map(str, figures))}")


def list_runs(table: pd.DataFrame) -> str:
    """Markdown: a row per run, with the settings in which it differs from others of its data, backbone and stage."""
    rows = []
    for (data, backbone, _), alike in table.groupby(["data", "backbone", "stage"]):
        names = differing(list(alike["settings"]))
        for run, seeds in alike.groupby("run"):
            states = seeds.groupby("state")["seed"].agg(lambda numbers: ", ".join(map(str, sorted(numbers))))
            cells = {"data": data, "backbone": backbone, "run": run}
            cells["seeds"] = "; ".join(f"{numbers} {state}" for state, numbers in states.items())
            cells["settings that differ"] = ", ".join(described(seeds["settings"].iloc[0], names))
            rows.append(cells)
    return pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)
