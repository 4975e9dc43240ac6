"""Accuracy against kept parameters."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no screen is needed, nor asked for

import pandas as pd
from matplotlib import pyplot as plt

from cdvqa.files import write_atomically
from cdvqa.studies.runs_table import ID, OOD, over_seeds

MARKERS = {"full": "o", "mask": "s", "omp": "^"}


def plot_accuracy(runs: pd.DataFrame, path: Path) -> None:
    """Draw one panel in and one out of distribution; a marker per pipeline, bars of one standard deviation over seeds.

    Args:
        runs: from `read_runs`, of one data set and backbone.
        path: a PNG file.
    """
    means = over_seeds(runs)
    places = [place for place in (ID, OOD) if place in set(means["place"])]
    figure, axes = plt.subplots(1, len(places), figsize=(4.6 * len(places) + 2.2, 4.2), sharey=True, squeeze=False)
    curves = sorted({curve_name(row) for _, row in means.iterrows()})
    colours = dict(zip(curves, plt.get_cmap("tab10").colors * 3, strict=False))  # type: ignore[attr-defined]
    for axis, place in zip(axes[0], places, strict=True):
        here = means[means["place"] == place]
        for name, points in here.groupby(here.apply(curve_name, axis=1)):
            points = points.sort_values("kept")
            axis.errorbar(
                100 * points["kept"],
                points["mean"],
                yerr=points["std"].fillna(0),
                marker=MARKERS[points["method"].iloc[0]],
                markersize=7,
                capsize=3,
                color=colours[name],
                label=name,
                alpha=0.9,
            )
        for _, full in here[here["method"] == "full"].iterrows():
            axis.axhline(full["mean"], color=colours[curve_name(full)], linewidth=0.8, linestyle=":", zorder=0)
        axis.set(title=place, xlabel="kept parameters (%)", xlim=(0, 105))
        axis.grid(alpha=0.25)
    axes[0][0].set_ylabel("VQA accuracy (%)")
    handles, labels = unique_legend(axes[0])
    figure.legend(handles, labels, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    figure.suptitle(f"{means['data'].iloc[0]}, {means['backbone'].iloc[0]}")
    figure.tight_layout()
    with write_atomically(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150, bbox_inches="tight")
    plt.close(figure)


def curve_name(row: pd.Series) -> str:
    """What belongs on one curve: all sparsities of one way to train."""
    if row["method"] == "full":
        return f"full ({row['pipeline']})"
    name = f"stage {row['stage']}: {row['pipeline']}, {row['method']}"
    extra = [row["assignment"]] if row["assignment"] != "uniform" else []
    extra += ["random start"] if row["initialisation"] == "random" else []
    return ", ".join([name, *extra])


def unique_legend(axes: list) -> tuple[list, list[str]]:
    """Each curve once, however many panels show it."""
    entries = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    return list(entries.values()), list(entries)
