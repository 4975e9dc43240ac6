"""The figures of a report."""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # draws without a screen

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from cdvqa.data.datasets.data_set import TITLES
from cdvqa.errors import InputError
from cdvqa.files import write_atomically
from cdvqa.runs.folder import percent
from cdvqa.sparsity import MODALITIES
from cdvqa.studies.report.drawing import COLOURS, FAINT, KINDS, Kind, draw_gaps, styles_of
from cdvqa.studies.sweep.study import plain_keys

KEYS = {"kind", "panels", "on", "gap"}
LEGEND_ROWS = 24
WIDE = 5  # panels beside each other
MOST_CURVES = 60  # more cannot be told apart
DATELESS: dict[str, Any] = {"png": {"Software": None}, "svg": {"Date": None}}  # the same bytes for the same runs


@dataclass(frozen=True)
class Figure:
    """One figure: the name of its files, what it shows, and the drawing."""

    name: str
    title: str
    drawing: Drawing

    @cached_property
    def svg(self) -> bytes:
        return self._saved("svg")

    def write(self, folder: Path) -> None:
        """Write `<name>.png` and `<name>.svg`."""
        for kind, content in (("png", self._saved("png")), ("svg", self.svg)):
            with write_atomically(folder / f"{self.name}.{kind}") as temporary:
                temporary.write_bytes(content)

    def _saved(self, kind: str) -> bytes:
        buffer = io.BytesIO()
        with plt.rc_context({"svg.hashsalt": self.name}):
            self.drawing.savefig(buffer, format=kind, dpi=150, metadata=DATELESS[kind])
        return buffer.getvalue()


def study_figures(runs: pd.DataFrame, wanted: Mapping[str, Any], name: str) -> list[Figure]:
    """The figure that a study wants, for each data set and backbone of its tested runs.

    Args:
        runs: those of the study.
        wanted: `kind` (one of `KINDS`), `panels` (a column of the table of runs, or several), `on` (an
            accuracy, or several) and `gap` (pairs of filters `better` and `worse`).
        name: of the files.

    Raises:
        InputError: an unknown key, kind or column.
    """
    wanted = plain_keys(wanted, "figure")
    front = wanted.get("kind") == "front"  # the size of models is compared over all backbones
    return [
        one
        for parts, alike in runs.groupby(["data"] if front else ["data", "backbone"], sort=False)
        for one in figure("_".join([name, *map(str, parts)]), ", ".join(map(str, parts)), alike, wanted)
    ]


def usual_figures(tested: pd.DataFrame, others: Sequence[Mapping[str, Any]] = ()) -> list[Figure]:
    """The figures of every report, by data set and backbone.

    There is none where it would have too many curves, as all shares of a grid do, and none that a study draws itself.

    Args:
        tested: the runs.
        others: the figures that studies want.
    """
    found, drawn_already = [], [plain_keys(other, "figure") for other in others if other]
    for data, alike in tested.groupby("data", sort=False):
        for backbone, runs in alike.groupby("backbone", sort=False):
            if runs["curve"].nunique() > MOST_CURVES:
                continue
            types = [kind for kind in ("yes/no", "number", "other") if kind in runs and runs[kind].notna().any()]
            specs: dict[str, dict[str, Any]] = {
                "accuracy": {"on": [accuracy for accuracy in TITLES if runs[accuracy].notna().any()]},
                "answer_types": {"on": types},
                "test_sets": {"on": sets_of(runs)},
                "tradeoff": {"kind": "tradeoff"},
            }
            for name, spec in specs.items():
                if spec not in drawn_already:
                    found += figure(f"{name}_{data}_{backbone}", f"{data}, {backbone}", runs, spec)
        if not any(other.get("kind") == "front" for other in drawn_already) and alike["curve"].nunique() <= MOST_CURVES:
            found += figure(f"size_{data}", str(data), alike, {"kind": "front"})
    return found


def figure(name: str, title: str, runs: pd.DataFrame, spec: Mapping[str, Any]) -> list[Figure]:
    """One figure, or none where no run has what it shows."""
    spec = plain_keys(spec, "figure")
    chosen, on = str(spec.get("kind", "curves")), as_list(spec.get("on", "ood"))
    if wrong := sorted(set(spec) - KEYS) or ([] if chosen in KINDS else [chosen]):
        raise InputError(f"figure: {', '.join(wrong)}: there are {', '.join(sorted(KEYS))}; kinds: {', '.join(KINDS)}")
    kind, panels = KINDS[chosen], as_list(spec.get("panels", []))
    if unknown := [column for column in panels if column not in runs]:
        raise InputError(f"figure: panels: {unknown[0]}: no column of the table of runs")
    on = on if kind.of_one_accuracy else ["ood"]
    if not on or any(column not in runs or not runs[column].notna().any() for column in (*kind.needs, *on)):
        return []
    facets = list(by_level(runs) if chosen == "shares" else facets_of(runs, panels))
    if not facets:
        return []
    drawing = drawn(kind, runs, facets, on, as_list(spec.get("gap", [])))
    drawing.suptitle(title)
    drawing.draw_without_rendering()  # lays it out, once for all files
    drawing.set_layout_engine("none")
    return [Figure(name, f"{kind.shows}: {title}", drawing)]


def drawn(
    kind: Kind,
    runs: pd.DataFrame,
    facets: Sequence[tuple[str, pd.DataFrame]],
    on: Sequence[str],
    gaps: Sequence[Mapping[str, Any]],
) -> Drawing:
    """A panel for each facet and accuracy, gaps below, and the legend.

    Args:
        kind: what a panel shows.
        runs: all runs: a curve has the same style in every panel, unless there are more of them than colours; then
            each row of one facet has colours and a legend of its own.
        facets: titles and runs.
        on: accuracies. If there are several facets, each is a row; otherwise a row has at most five panels.
        gaps: pairs of filters.
    """
    styles = styles_of(runs)
    apart = len(facets) > 1 and len(on) > 1 and len(styles) > COLOURS
    grid = [(facet, part, accuracy) for facet, part in facets for accuracy in on]
    columns = len(on) if len(facets) > 1 and len(on) > 1 else min(len(grid), WIDE)
    rows, each = -(-len(grid) // columns), 2 if gaps else 1
    entries = 2 if kind is KINDS["shares"] else 0 if apart else min(len(styles), LEGEND_ROWS)  # of the legend below
    drawing, axes = plt.subplots(
        rows * each,
        columns,
        figsize=(max(3.9 * columns + (3 if apart else 0.6), 6), (4.4 if gaps else 3.4) * rows + 0.2 * entries),
        squeeze=False,
        layout="constrained",
        gridspec_kw={"height_ratios": [3, 1] * rows if gaps else [1] * rows},
    )
    first: dict[str, Axes] = {}
    for number, (facet, part, accuracy) in enumerate(grid):
        row, column = divmod(number, columns)
        axis = axes[row * each][column]
        if kind is KINDS["curves"] and accuracy in first:  # panels of the same accuracy have the same scale
            axis.sharey(first[accuracy])
        first.setdefault(accuracy, axis)
        kind.draw(axis, part, accuracy, styles_of(part) if apart else styles)
        shown = TITLES.get(accuracy, accuracy) if kind.of_one_accuracy else ""
        axis.set_title(", ".join(filter(None, (facet, shown))))
        axis.grid(alpha=FAINT)
        if gaps:
            draw_gaps(axes[row * each + 1][column], part, accuracy, gaps)
    for axis in axes.flat:
        axis.set_visible(axis.has_data())
    if apart:
        for row in axes[::each]:
            row[-1].legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False, fontsize=8)
    else:
        legend(drawing, axes)
    plt.close(drawing)
    return drawing


def by_level(runs: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The subnetworks with a share for each modality, by overall sparsity."""
    shared = runs.dropna(subset=list(MODALITIES))
    for level in sorted(set(shared["overall"]) - {0}):
        yield f"{percent(level)} % zeros", shared[shared["overall"] == level]


def sets_of(runs: pd.DataFrame) -> list[str]:
    """The means over groups of test sets, and the OOD test sets; none where the data set has no groups."""
    results = runs["line"].iloc[0]["results"]
    means = [name for name in results.get("means", {}) if name != "ood_mean"]
    ood = [name for name, split in results["splits"].items() if split["distribution"] == "ood"]
    return [*means, *ood] if means else []


def as_list(value: Any) -> list[Any]:
    """A list as it is, anything else as a list of it."""
    return value if isinstance(value, list) else [value]


def facets_of(runs: pd.DataFrame, columns: Sequence[str]) -> Iterator[tuple[str, pd.DataFrame]]:
    """The runs by the values of some columns. A full model is in every panel of a column that it has no value of."""
    if not columns:
        yield "", runs
        return
    full = runs["method"] == "full"
    for values, _ in runs[~full].groupby(list(columns)):
        chosen = pd.Series(True, runs.index)
        for column, value in zip(columns, values, strict=True):
            chosen &= (runs[column] == value) | (full & runs[column].isin(["", 0]))
        yield ", ".join(f"{column} {value}" for column, value in zip(columns, values, strict=True)), runs[chosen]


def legend(drawing: Drawing, axes: Any) -> None:
    """One legend for all panels, below them."""
    entries: dict[str, Any] = {}
    for axis in axes.flat:
        entries |= {str(label): handle for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    columns = max(1, -(-len(entries) // LEGEND_ROWS), 2 if axes.shape[1] > 1 and len(entries) > 3 else 1)
    layout: dict[str, Any] = {"loc": "outside lower center", "frameon": False, "fontsize": 8, "ncols": columns}
    drawing.legend(list(entries.values()), list(entries), **layout)
