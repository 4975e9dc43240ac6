"""Accuracy against kept parameters."""

from itertools import cycle
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # draws without a screen

import pandas as pd
from matplotlib import pyplot as plt

from cdvqa.files import write_atomically
from cdvqa.studies.table import ID, OOD

MARKERS = {"full": "o", "mask": "s", "omp": "^"}
LINES = ("-", "--", "-.", ":")
LEGEND_ROWS = 20


def plot_accuracy(runs: pd.DataFrame, path: Path) -> None:
    """Draw a panel in and one out of distribution: curves over sparsities, bars of one standard deviation over seeds.

    Args:
        runs: tested runs of one data set and backbone, from `read_runs`.
        path: a PNG file.
    """
    places = [place for place in (ID, OOD) if runs[place].notna().any()]
    figure, axes = plt.subplots(1, len(places), figsize=(4.6 * len(places) + 2.2, 4.2), sharey=True, squeeze=False)
    colours = plt.get_cmap("tab10").colors  # type: ignore[attr-defined]
    looks = cycle([(colour, line) for line in LINES for colour in colours])
    for (label, curve), (colour, line) in zip(runs.groupby("curve"), looks, strict=False):
        points = curve.groupby("run").agg(
            kept=("kept", "mean"), **{f"{place} {kind}": (place, kind) for place in places for kind in ("mean", "std")}
        )
        points = points.sort_values("kept")
        method = curve["method"].iloc[0]
        for axis, place in zip(axes[0], places, strict=True):
            mean = points[f"{place} mean"]
            axis.errorbar(
                100 * points["kept"],
                mean,
                yerr=points[f"{place} std"].fillna(0),
                marker=MARKERS.get(method, "D"),
                markersize=7,
                capsize=3,
                color=colour,
                linestyle=line,
                label=label,
                alpha=0.9,
            )
            if method == "full":
                axis.axhline(mean.mean(), color=colour, linewidth=0.8, linestyle=":", zorder=0)
    for axis, place in zip(axes[0], places, strict=True):
        axis.set(title=place, xlabel="kept parameters (%)", xlim=(0, 105))
        axis.grid(alpha=0.25)
    axes[0][0].set_ylabel("VQA accuracy (%)")
    handles, labels = axes[0][0].get_legend_handles_labels()
    columns = -(-len(labels) // LEGEND_ROWS)
    figure.legend(handles, labels, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, ncols=columns)
    figure.suptitle(f"{runs['data'].iloc[0]}, {runs['backbone'].iloc[0]}")
    figure.tight_layout()
    with write_atomically(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150, bbox_inches="tight")
    plt.close(figure)
