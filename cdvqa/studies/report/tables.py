"""The tables of a report, each as Markdown, LaTeX and CSV."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from cdvqa.data.datasets.data_set import TITLES
from cdvqa.files import write_atomically
from cdvqa.runs.identity import differing
from cdvqa.studies.report.published import REAL, beside_published, mega, paper_table
from cdvqa.studies.report.table import RUN, answer_types, described, spread

SELECTION = (
    "A result has the greatest of its own selection and of those of the runs that it is built on: dev = last < unknown "
    "< test."
)


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        name: of its files.
        title: its heading.
        frame: its cells, as text.
        note: what a reader has to know.
    """

    name: str
    title: str
    frame: pd.DataFrame
    note: str = ""

    @property
    def markdown(self) -> str:
        return str(self.frame.fillna("").to_markdown(index=False, disable_numparse=True))

    @property
    def latex(self) -> str:
        """A `tabular` with the rules of the package booktabs."""
        plain = self.frame.fillna("").style.hide(axis="index")
        escaped = plain.format(escape="latex").format_index(escape="latex", axis=1)
        return str(escaped.to_latex(hrules=True)).replace("±", r"$\pm$").replace("…", r"\dots{}")

    def write(self, folder: Path) -> None:
        """Write `<name>.md`, `<name>.tex` and `<name>.csv`."""
        csv = self.frame.to_csv(index=False)
        for suffix, text in ((".md", self.markdown + "\n"), (".tex", self.latex), (".csv", csv)):
            with write_atomically(folder / f"{self.name}{suffix}") as temporary:
                temporary.write_text(text, encoding="utf-8")


def tables_of(tested: pd.DataFrame) -> list[Table]:
    """Every table that these tested runs can fill."""
    found = [Table("results", "Results", results(tested), "Mean ± standard deviation over seeds, in percent.")]
    for data, runs in tested.groupby("data", sort=False):
        if table := paper_table(runs):
            world = "" if data in REAL else f" Ours are on `{data}`: compare differences, not levels."
            note = "The paper's numbers, and ours: mean ± standard deviation over seeds; M = 2^20 parameters. " + (
                f"`-`: cdvqa does not have the method, or the paper not the number.{world}"
            )
            name = table.title.lower().replace(" ", "")
            found.append(Table(f"{name}_{data}", f"{table.title}, {data}", beside_published(runs, table), note))
        sets = accuracy_by_set(runs)
        if sets.shape[1] > 6:  # with two or three splits they are among the results
            found.append(Table(f"test_sets_{data}", f"Every test set, {data}", sets))
    found.append(Table("selection", "How models were selected", selection(tested), SELECTION))
    return found


def results(runs: pd.DataFrame) -> pd.DataFrame:
    """A row per run of all seeds: its size and its accuracies."""
    rows = []
    titles = {**TITLES, **{name: f"{name} (OOD)" for name in answer_types(runs)}}
    for key, seeds in runs.groupby(RUN, sort=False):
        cells = dict(zip(RUN, key, strict=True)) | {
            "kept": f"{100 * seeds['kept'].mean() / seeds['full'].mean():.1f} %" if seeds["kept"].notna().any() else "",
            "params": mega(seeds["kept"].mean()),
            "seeds": str(len(seeds)),
        }
        cells |= {title: spread(seeds[column]) for column, title in titles.items() if column in seeds}
        rows.append(cells | {"selected on": ", ".join(sorted(set(seeds["selection"])))})
    table = pd.DataFrame(rows)
    return table.loc[:, (table != "").any()]


def accuracy_by_set(runs: pd.DataFrame) -> pd.DataFrame:
    """A row per run of all seeds: its accuracy on every test set, and the data set's means over several."""
    names = dict.fromkeys(
        name for line in runs["line"] for part in ("splits", "means") for name in line["results"].get(part, {})
    )
    rows = [
        dict(zip(RUN, key, strict=True)) | {name: spread(seeds[name]) for name in names if name in seeds}
        for key, seeds in runs.groupby(RUN, sort=False)
    ]
    return pd.DataFrame(rows)


def selection(runs: pd.DataFrame) -> pd.DataFrame:
    """A row per run of all seeds: what its own model was selected on, and what its result has to say."""
    rows = []
    for key, seeds in runs.groupby(RUN, sort=False):
        line = seeds["line"].iloc[0]
        own = seeds["settings"].iloc[0].get("model.selection", "-")  # one-shot pruning selects nothing
        whole = ", ".join(sorted(set(seeds["selection"])))
        departures = [f"{name} {value}" for name, value in (line.get("departures") or {}).items()]
        rows.append(
            dict(zip(RUN, key, strict=True))
            | {"own selection": own, "result": f"selected on {whole}" if whole else ""}
            | {"inherited": "yes" if whole not in ("", own) and own != "-" else "no"}
            | {"preset": line.get("preset") or "", "departures": ", ".join(departures)}
        )
    return pd.DataFrame(rows)


def list_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """A row per run, with the settings in which it differs from others of its data, backbone and stage."""
    rows = []
    for (data, backbone, _), alike in runs.groupby(["data", "backbone", "stage"]):
        names = differing(list(alike["settings"]))
        for run, seeds in alike.groupby("run"):
            states = seeds.groupby("state")["seed"].agg(lambda numbers: ", ".join(map(str, sorted(numbers))))
            cells = {"data": data, "backbone": backbone, "run": run}
            cells["seeds"] = "; ".join(f"{numbers} {state}" for state, numbers in states.items())
            cells["settings that differ"] = ", ".join(described(seeds["settings"].iloc[0], names))
            rows.append(cells)
    return pd.DataFrame(rows)
