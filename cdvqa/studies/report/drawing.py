"""What one panel of a figure shows, by the kind of the figure."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import pandas as pd
from matplotlib.axes import Axes

from cdvqa.errors import InputError
from cdvqa.runs.folder import percent
from cdvqa.sparsity import MODALITIES
from cdvqa.studies.report.published import MEGA, REAL, paper_table
from cdvqa.studies.report.verdicts import differences_of, pair
from cdvqa.studies.sweep.study import plain_keys

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES = ("-", "--", "-.", ":")
COLOURS = 10  # that can be told apart
FAINT = 0.15
Style = dict[str, Any]  # of a curve: colour, line and marker


class Kind(NamedTuple):
    """A kind of figure.

    Attributes:
        draw: draws a panel: axes, runs, the accuracy to show, and the style of each curve.
        shows: what the figure shows, in words.
        needs: columns of the table of runs, beside the accuracies of `on`.
        of_one_accuracy: whether a panel shows one of the accuracies of `on`.
    """

    draw: Callable[[Axes, pd.DataFrame, str, Mapping[str, Style]], None]
    shows: str
    needs: Sequence[str] = ()
    of_one_accuracy: bool = True


def styles_of(runs: pd.DataFrame) -> dict[str, Style]:
    """The style of every curve, the same in all panels."""
    colours = matplotlib.color_sequences["tab10"]
    styles = {}
    for number, label in enumerate(dict.fromkeys(runs.sort_values(["stage", "pipeline", "curve"])["curve"])):
        turn, colour = divmod(number, len(colours))
        marker = MARKERS[number % len(MARKERS)]
        styles[str(label)] = {"color": colours[colour], "linestyle": LINES[turn % len(LINES)], "marker": marker}
    return styles


def by_sparsity(curve: pd.DataFrame, accuracy: str) -> pd.DataFrame:
    """Mean and standard deviation over seeds at each sparsity; 0 with one seed."""
    return curve.groupby("sparsity")[accuracy].agg(["mean", "std"]).fillna({"std": 0}).dropna()


def draw_full(axis: Axes, runs: pd.DataFrame, accuracy: str, styles: Mapping[str, Style]) -> None:
    """Full models as horizontal lines, each with a band of one standard deviation over seeds."""
    for label, curve in runs[runs["method"] == "full"].groupby("curve", sort=False):
        colour, values = styles[str(label)]["color"], curve[accuracy].dropna()
        if values.empty:
            continue
        mean, std = values.mean(), values.std() if len(values) > 1 else 0
        axis.axhline(mean, color=colour, linestyle="--", linewidth=1.2, label=label)
        axis.axhspan(mean - std, mean + std, color=colour, alpha=FAINT, linewidth=0)


def draw_full_alone(axis: Axes, runs: pd.DataFrame, accuracy: str) -> None:
    """A horizontal bar for each full model, named beside it, one standard deviation over seeds as error bar."""
    points = runs.groupby("curve", sort=False)[accuracy].agg(["mean", "std"]).fillna({"std": 0})
    axis.barh(points.index, points["mean"], xerr=points["std"], capsize=2, alpha=0.85)
    place = axis.get_subplotspec()
    axis.tick_params(axis="y", labelsize=8, labelleft=place is None or place.is_first_col())
    axis.set(xlabel="VQA accuracy (%)", xlim=(0, 100), ylim=(len(points) - 0.4, -0.6))  # the first on top


def draw_curves(axis: Axes, runs: pd.DataFrame, accuracy: str, styles: Mapping[str, Style]) -> None:
    """Accuracy against sparsity."""
    if (runs["method"] == "full").all():
        return draw_full_alone(axis, runs, accuracy)
    draw_full(axis, runs, accuracy, styles)
    for label, curve in runs[runs["method"] != "full"].groupby("curve", sort=False):
        points, style = by_sparsity(curve, accuracy), styles[str(label)]
        levels = 100 * points.index
        axis.plot(levels, points["mean"], label=label, markersize=5, linewidth=1.4, **style)
        low, high = points["mean"] - points["std"], points["mean"] + points["std"]
        axis.fill_between(levels, low, high, color=style["color"], alpha=FAINT, linewidth=0)
    axis.set(xlabel="sparsity (%)", ylabel="VQA accuracy (%)", xlim=(0, 100))


def draw_bars(axis: Axes, runs: pd.DataFrame, accuracy: str, styles: Mapping[str, Style]) -> None:
    """A group of bars at each sparsity, one standard deviation over seeds as error bars."""
    if (runs["method"] == "full").all():
        return draw_full_alone(axis, runs, accuracy)
    draw_full(axis, runs, accuracy, styles)
    pruned = runs[runs["method"] != "full"]
    levels, labels = sorted(pruned["sparsity"].unique()), list(dict.fromkeys(pruned["curve"]))
    width = 0.8 / max(len(labels), 1)
    for number, label in enumerate(labels):
        points = by_sparsity(pruned[pruned["curve"] == label], accuracy)
        positions = [levels.index(level) + (number - (len(labels) - 1) / 2) * width for level in points.index]
        colour = styles[str(label)]["color"]
        axis.bar(positions, points["mean"], width, yerr=points["std"], color=colour, label=label, capsize=2, alpha=0.85)
    values = runs[accuracy].dropna()
    margin = max(1.0, 0.15 * (values.max() - values.min()))
    axis.set(xlabel="sparsity (%)", ylabel="VQA accuracy (%)", ylim=(max(0, values.min() - margin), None))
    axis.set_xticks(range(len(levels)), [percent(level) for level in levels])


def draw_shares(axis: Axes, runs: pd.DataFrame, accuracy: str, styles: Mapping[str, Style]) -> None:
    """Every assignment of shares at one overall sparsity: language and vision on the axes, accuracy as colour.

    Red lines: uniform sparsity. Blue lines: the best assignment.
    """
    points = runs.groupby("run").agg(**{name: (name, "mean") for name in (*MODALITIES, accuracy)}).dropna()
    x, y = 100 * points["language"], 100 * points["vision"]
    shown = axis.scatter(x, y, c=points[accuracy], cmap="viridis", s=45, zorder=3)
    axis.figure.colorbar(shown, ax=axis, label="VQA accuracy (%)")
    distance = points[list(MODALITIES)].sub(runs["overall"].iloc[0]).abs()
    even, best = points[(distance < 1e-3).all(axis=1)], points.loc[[points[accuracy].idxmax()]]
    for chosen, colour, label in ((even, "tab:red", "uniform"), (best, "tab:blue", "best")):
        for name, draw in (("language", axis.axvline), ("vision", axis.axhline)):
            for share in chosen[name].to_numpy(float):
                draw(100 * share, color=colour, linewidth=1, label=label)
    text = ", ".join(f"{name} {percent(best[name].iloc[0], 1)}" for name in MODALITIES)
    axis.set(xlabel=f"language sparsity (%)\nbest: {text}", ylabel="vision sparsity (%)")


def draw_front(axis: Axes, runs: pd.DataFrame, accuracy: str, styles: Mapping[str, Style]) -> None:
    """Accuracy out of distribution against parameters, beside published models where the data set is theirs."""
    for label, curve in runs.groupby("curve", sort=False):
        points = curve.groupby("sparsity").agg(kept=("kept", "mean"), mean=(accuracy, "mean"), std=(accuracy, "std"))
        points = points.sort_values("kept")
        axis.errorbar(
            points["kept"] / MEGA, points["mean"], points["std"].fillna(0), label=label, capsize=2, **styles[str(label)]
        )
    table = paper_table(runs)
    if table and runs["data"].iloc[0] in REAL:
        column = list(table.columns.values()).index("ood")
        for row in table.rows:
            point = float(row.parameters.strip("~M")), row.scores[column] or float("nan")
            axis.plot(*point, "x", color="grey", zorder=1)
            name = row.method.partition(" (")[0]
            axis.annotate(name, point, (4, 2), textcoords="offset points", fontsize=6, color="grey")
    axis.set(xlabel="kept parameters (M = 2^20)", ylabel="VQA accuracy out of distribution (%)")


def draw_tradeoff(axis: Axes, runs: pd.DataFrame, accuracy: str, styles: Mapping[str, Style]) -> None:
    """Accuracy out of distribution against accuracy in distribution; a number is a sparsity in percent."""
    for label, curve in runs.groupby("curve", sort=False):
        points = curve.groupby("sparsity").agg(x=("id", "mean"), y=("ood", "mean")).dropna()
        axis.plot(points["x"], points["y"], label=label, **{**styles[str(label)], "linewidth": 0.8})
        for level, point in points[points.index > 0].iterrows():
            spot = float(point["x"]), float(point["y"])
            axis.annotate(percent(float(str(level)), 1), spot, (4, 2), textcoords="offset points", fontsize=6)
    axis.set(xlabel="accuracy in distribution (%)", ylabel="accuracy out of distribution (%)")


def draw_gaps(axis: Axes, runs: pd.DataFrame, accuracy: str, gaps: Sequence[Mapping[str, Any]]) -> None:
    """Bars: the difference between two groups of runs at each sparsity, averaged over seeds."""
    width = 8 / len(gaps)
    for number, gap in enumerate(plain_keys(gap, "figure: gap") for gap in gaps):
        if set(gap) - {"better", "worse", "label"} or not {"better", "worse"} <= set(gap):
            raise InputError("figure: gap: expected better, worse and, if wanted, label")
        pairs = pair(runs, gap["better"], gap["worse"])
        mean = differences_of(pairs, runs, accuracy).groupby(pairs["sparsity"]).mean().dropna()
        if len(mean):
            positions = 100 * mean.index + (number - (len(gaps) - 1) / 2) * width
            label = f"gap: {gap.get('label', number + 1)}"
            axis.bar(positions, mean, width, label=label, color=f"C{5 + number}", alpha=0.8)
    axis.axhline(0, color="black", linewidth=0.6)
    axis.set(xlabel="sparsity (%)", ylabel="gap (points)", xlim=(0, 100))


KINDS = {
    "curves": Kind(draw_curves, "accuracy against sparsity"),
    "bars": Kind(draw_bars, "accuracy by sparsity"),
    "shares": Kind(draw_shares, "shares of the modalities at the same overall sparsity", MODALITIES),
    "front": Kind(draw_front, "accuracy against size", ("ood", "kept"), False),
    "tradeoff": Kind(draw_tradeoff, "accuracy in and out of distribution", ("id", "ood"), False),
}
