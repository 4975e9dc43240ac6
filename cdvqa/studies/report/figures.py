"""The figures of a report."""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # draws without a screen

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from cdvqa.errors import InputError
from cdvqa.files import write_atomically
from cdvqa.runs.folder import percent
from cdvqa.studies.report.published import MEGA, REAL, TABLES
from cdvqa.studies.report.table import TITLES, plain_keys
from cdvqa.studies.report.verdicts import pair

KINDS = ("curves", "bars", "shares", "front", "tradeoff")
KEYS = {"kind", "panels", "on", "gap"}
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES = ("-", "--", "-.", ":")
LEGEND_ROWS = 24
WIDE = 5  # panels beside each other
MOST_CURVES = 60  # more cannot be told apart
FAINT = 0.15
DATELESS: dict[str, Any] = {"png": {"Software": None}, "svg": {"Date": None}}  # the same bytes for the same runs
Look = dict[str, Any]


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


def figures_of(tested: pd.DataFrame, wanted: Mapping[str, Any] | None, name: str) -> list[Figure]:
    """All figures of tested runs, by data set and backbone: the one that a study wants and those of every report.

    Args:
        tested: the runs.
        wanted: a study's `figure`: `kind` (curves, bars, shares or front), `panels` (a column of the table of runs, or
            several), `on` (an accuracy, or several) and `gap` (pairs of filters `better` and `worse`).
        name: of the files of the study's figure.

    Raises:
        InputError: the study's figure has an unknown key, kind or column.
    """
    found = []
    wanted = plain_keys(wanted, "figure") if wanted else None
    for data, alike in tested.groupby("data", sort=False):
        if wanted and wanted.get("kind") == "front":  # the size of models is compared over all backbones
            found += figure(f"{name}_{data}", str(data), alike, wanted)
        for backbone, runs in alike.groupby("backbone", sort=False):
            title = f"{data}, {backbone}"
            if wanted and wanted.get("kind") != "front":
                found += figure(f"{name}_{data}_{backbone}", title, runs, wanted)
            for own, spec in usual_figures(runs).items():
                found += figure(f"{own}_{data}_{backbone}", title, runs, spec) if spec != wanted else []
        if (not wanted or wanted.get("kind") != "front") and alike["curve"].nunique() <= MOST_CURVES:
            found += figure(f"size_{data}", str(data), alike, {"kind": "front"})
    return found


def usual_figures(runs: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """What every report shows of the runs of a data set and backbone, by the name of its files.

    Nothing where they make too many curves, as all shares of a grid do.
    """
    if runs["curve"].nunique() > MOST_CURVES:
        return {}
    types = [kind for kind in ("yes/no", "number", "other") if kind in runs and runs[kind].notna().any()]
    return {
        "accuracy": {"on": [place for place in TITLES if runs[place].notna().any()]},
        "answer_types": {"on": types},
        "test_sets": {"on": sets_of(runs)},
        "tradeoff": {"kind": "tradeoff"},
    }


def figure(name: str, title: str, runs: pd.DataFrame, spec: Mapping[str, Any]) -> list[Figure]:
    """One figure, or none where no run has what it shows."""
    spec = plain_keys(spec, "figure")
    kind, on = spec.get("kind", "curves"), as_list(spec.get("on", "ood"))
    panels = as_list(spec.get("panels", []))
    gaps = as_list(spec.get("gap", []))
    if wrong := sorted(set(spec) - KEYS) or [str(kind)] * (kind not in KINDS):
        raise InputError(f"figure: {', '.join(wrong)}: there are {', '.join(sorted(KEYS))}; kinds: {', '.join(KINDS)}")
    if unknown := [column for column in panels if column not in runs]:
        raise InputError(f"figure: panels: {unknown[0]}: no column of the table of runs")
    needed = ["id", "ood"] if kind == "tradeoff" else ["ood", "kept"] if kind == "front" else on
    if not needed or any(place not in runs or not runs[place].notna().any() for place in needed):
        return []
    facets = list(facets_of(runs, panels))
    if kind == "shares":
        shared = runs.dropna(subset=["language", "vision", "cross"])
        levels = sorted(set(shared["overall"]) - {0})
        facets = [(f"{percent(level)} % zeros", shared[shared["overall"] == level]) for level in levels]
    if not facets:
        return []
    looks = looks_of(runs)
    grid = [(facet, place) for facet in facets for place in (on if kind in WITH_PLACE else on[:1])]
    columns = len(on) if len(facets) > 1 and len(on) > 1 and kind in WITH_PLACE else min(len(grid), WIDE)
    rows = -(-len(grid) // columns)
    heights = [3, 1] * rows if gaps else [1] * rows
    entries = 2 if kind == "shares" else min(len(looks), LEGEND_ROWS)
    drawing, axes = plt.subplots(
        len(heights),
        columns,
        figsize=(max(3.9 * columns + 0.6, 6), (4.4 if gaps else 3.4) * rows + 0.2 * entries),
        squeeze=False,
        layout="constrained",
        gridspec_kw={"height_ratios": heights},
    )
    first: dict[str, Axes] = {}
    for number, ((facet, part), place) in enumerate(grid):
        row, column = divmod(number, columns)
        axis = axes[row * (2 if gaps else 1)][column]
        if kind == "curves" and place in first:  # panels of the same accuracy have the same scale
            axis.sharey(first[place])
        first.setdefault(place, axis)
        DRAW[kind](axis, part, place, looks)
        axis.set_title(", ".join(filter(None, (facet, TITLES.get(place, place) if kind in WITH_PLACE else ""))))
        axis.grid(alpha=FAINT)
        if gaps:
            draw_gaps(axes[row * 2 + 1][column], part, place, gaps)
    for axis in axes.flat:
        axis.set_visible(axis.has_data())
    drawing.suptitle(title)
    legend(drawing, axes)
    drawing.draw_without_rendering()  # lays it out, once for all files
    drawing.set_layout_engine("none")
    plt.close(drawing)
    return [Figure(name, f"{SHOWS[kind]}: {title}", drawing)]


def sets_of(runs: pd.DataFrame) -> list[str]:
    """The test sets of which the data set has means of groups, and these means; none where it has no groups."""
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


def looks_of(runs: pd.DataFrame) -> dict[str, Look]:
    """Colour, line and marker of every curve, the same in all panels."""
    colours = plt.get_cmap("tab10").colors  # type: ignore[attr-defined]
    looks = {}
    for number, label in enumerate(dict.fromkeys(runs.sort_values(["stage", "pipeline", "curve"])["curve"])):
        turn, colour = divmod(number, len(colours))
        marker = MARKERS[number % len(MARKERS)]
        looks[str(label)] = {"color": colours[colour], "linestyle": LINES[turn % len(LINES)], "marker": marker}
    return looks


def by_sparsity(curve: pd.DataFrame, place: str) -> pd.DataFrame:
    """Mean and standard deviation over seeds at each sparsity; 0 with one seed."""
    return curve.groupby("sparsity")[place].agg(["mean", "std"]).fillna({"std": 0}).dropna()


def draw_full(axis: Axes, runs: pd.DataFrame, place: str, looks: Mapping[str, Look]) -> None:
    """Full models as horizontal lines, a standard deviation over seeds as their shadow."""
    for label, curve in runs[runs["method"] == "full"].groupby("curve", sort=False):
        look, values = looks[str(label)], curve[place].dropna()
        if values.empty:
            continue
        mean, std = values.mean(), values.std() if len(values) > 1 else 0
        axis.axhline(mean, color=look["color"], linestyle="--", linewidth=1.2, label=label)
        axis.axhspan(mean - std, mean + std, color=look["color"], alpha=FAINT, linewidth=0)


def draw_curves(axis: Axes, runs: pd.DataFrame, place: str, looks: Mapping[str, Look]) -> None:
    """Accuracy against sparsity."""
    draw_full(axis, runs, place, looks)
    for label, curve in runs[runs["method"] != "full"].groupby("curve", sort=False):
        points, look = by_sparsity(curve, place), looks[str(label)]
        levels = 100 * points.index
        axis.plot(levels, points["mean"], label=label, markersize=5, linewidth=1.4, **look)
        low, high = points["mean"] - points["std"], points["mean"] + points["std"]
        axis.fill_between(levels, low, high, color=look["color"], alpha=FAINT, linewidth=0)
    axis.set(xlabel="sparsity (%)", ylabel="VQA accuracy (%)", xlim=(0, 100))


def draw_bars(axis: Axes, runs: pd.DataFrame, place: str, looks: Mapping[str, Look]) -> None:
    """A group of bars at each sparsity, one standard deviation over seeds as error bars."""
    draw_full(axis, runs, place, looks)
    pruned = runs[runs["method"] != "full"]
    levels, labels = sorted(pruned["sparsity"].unique()), list(dict.fromkeys(pruned["curve"]))
    width = 0.8 / max(len(labels), 1)
    for number, label in enumerate(labels):
        points = by_sparsity(pruned[pruned["curve"] == label], place)
        places = [levels.index(level) + (number - (len(labels) - 1) / 2) * width for level in points.index]
        colour = looks[str(label)]["color"]
        axis.bar(places, points["mean"], width, yerr=points["std"], color=colour, label=label, capsize=2, alpha=0.85)
    values = runs[place].dropna()
    margin = max(1.0, 0.15 * (values.max() - values.min()))
    axis.set(xlabel="sparsity (%)", ylabel="VQA accuracy (%)", ylim=(max(0, values.min() - margin), None))
    axis.set_xticks(range(len(levels)), [percent(level) for level in levels])


def draw_shares(axis: Axes, runs: pd.DataFrame, place: str, looks: Mapping[str, Look]) -> None:
    """Every assignment of shares at one overall sparsity: language and vision on the axes, accuracy as colour.

    Red lines: uniform sparsity. Blue lines: the best assignment.
    """
    points = runs.groupby("run").agg(**{name: (name, "mean") for name in ("language", "vision", "cross", place)})
    points = points.dropna()
    x, y = 100 * points["language"], 100 * points["vision"]
    shown = axis.scatter(x, y, c=points[place], cmap="viridis", s=45, zorder=3)
    axis.figure.colorbar(shown, ax=axis, label="VQA accuracy (%)")
    distance = points[["language", "vision", "cross"]].sub(runs["overall"].iloc[0]).abs()
    even, best = points[(distance < 1e-3).all(axis=1)], points.loc[[points[place].idxmax()]]
    for chosen, colour, label in ((even, "tab:red", "uniform"), (best, "tab:blue", "best")):
        for name, draw in (("language", axis.axvline), ("vision", axis.axhline)):
            for share in chosen[name].to_numpy(float):
                draw(100 * share, color=colour, linewidth=1, label=label)
    text = ", ".join(f"{name} {percent(best[name].iloc[0], 1)}" for name in ("language", "vision", "cross"))
    axis.set(xlabel=f"language sparsity (%)\nbest: {text}", ylabel="vision sparsity (%)")


def draw_front(axis: Axes, runs: pd.DataFrame, place: str, looks: Mapping[str, Look]) -> None:
    """Accuracy out of distribution against parameters, beside published models where the data set is theirs."""
    for label, curve in runs.groupby("curve", sort=False):
        points = curve.groupby("sparsity").agg(kept=("kept", "mean"), mean=(place, "mean"), std=(place, "std"))
        points = points.sort_values("kept")
        axis.errorbar(
            points["kept"] / MEGA, points["mean"], points["std"].fillna(0), label=label, capsize=2, **looks[str(label)]
        )
    table = TABLES.get(runs["settings"].iloc[0].get("data.layout", ""))
    if table and runs["data"].iloc[0] in REAL:
        column = list(table.columns.values()).index("ood")
        for row in table.rows:
            point = float(row.parameters.strip("~M")), row.scores[column] or float("nan")
            axis.plot(*point, "x", color="grey", zorder=1)
            name = row.method.partition(" (")[0]
            axis.annotate(name, point, (4, 2), textcoords="offset points", fontsize=6, color="grey")
    axis.set(xlabel="kept parameters (M = 2^20)", ylabel="VQA accuracy out of distribution (%)")


def draw_tradeoff(axis: Axes, runs: pd.DataFrame, place: str, looks: Mapping[str, Look]) -> None:
    """Accuracy out of distribution against accuracy in distribution; a number is a sparsity in percent."""
    for label, curve in runs.groupby("curve", sort=False):
        points = curve.groupby("sparsity").agg(x=("id", "mean"), y=("ood", "mean")).dropna()
        axis.plot(points["x"], points["y"], label=label, **{**looks[str(label)], "linewidth": 0.8})
        for level, point in points[points.index > 0].iterrows():
            spot = float(point["x"]), float(point["y"])
            axis.annotate(percent(float(str(level)), 1), spot, (4, 2), textcoords="offset points", fontsize=6)
    axis.set(xlabel="accuracy in distribution (%)", ylabel="accuracy out of distribution (%)")


DRAW = {
    "curves": draw_curves,
    "bars": draw_bars,
    "shares": draw_shares,
    "front": draw_front,
    "tradeoff": draw_tradeoff,
}
WITH_PLACE = ("curves", "bars", "shares")
SHOWS = {
    "curves": "accuracy against sparsity",
    "bars": "accuracy by sparsity",
    "shares": "shares of the modalities at the same overall sparsity",
    "front": "accuracy against size",
    "tradeoff": "accuracy in and out of distribution",
}


def draw_gaps(axis: Axes, runs: pd.DataFrame, place: str, gaps: Sequence[Mapping[str, Any]]) -> None:
    """Bars: by how much one group of runs beats another at each sparsity, averaged over seeds."""
    width = 8 / len(gaps)
    for number, gap in enumerate(plain_keys(gap, "figure: gap") for gap in gaps):
        if set(gap) - {"better", "worse", "label"} or not {"better", "worse"} <= set(gap):
            raise InputError("figure: gap: expected better, worse and, if wanted, label")
        pairs = pair(runs, gap["better"], gap["worse"])
        values = runs[place].to_numpy(np.float64)
        pairs["gap"] = values[pairs["better"]] - values[pairs["worse"]]
        mean = pairs.groupby("sparsity")["gap"].mean().dropna()
        if len(mean):
            places = 100 * mean.index + (number - (len(gaps) - 1) / 2) * width
            axis.bar(
                places, mean, width, label=f"gap: {gap.get('label', number + 1)}", color=f"C{5 + number}", alpha=0.8
            )
    axis.axhline(0, color="black", linewidth=0.6)
    axis.set(xlabel="sparsity (%)", ylabel="gap (points)", xlim=(0, 100))


def legend(drawing: Drawing, axes: Any) -> None:
    """One legend for all panels, below them."""
    entries: dict[str, Any] = {}
    for axis in axes.flat:
        entries |= {str(label): handle for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    columns = max(1, -(-len(entries) // LEGEND_ROWS), 2 if axes.shape[1] > 1 and len(entries) > 3 else 1)
    place: dict[str, Any] = {"loc": "outside lower center", "frameon": False, "fontsize": 8, "ncols": columns}
    drawing.legend(list(entries.values()), list(entries), **place)
