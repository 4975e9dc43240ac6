"""Whether a training has converged, from its `metrics.csv`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cdvqa.runs.folder import Run
from cdvqa.studies.report.table import folders_of

CURVES = ("train/loss/epoch", "val/accuracy/all")
LOSS_FALL = 0.02  # share of the loss a fifth of the epochs before the end
ACCURACY_MOVE = 0.5  # points
NOTE = (
    "Full models, curves averaged over seeds. Converged: over the last fifth of the epochs the training loss falls by "
    "less than 2 %, and development accuracy moves by less than 0.5 points."
)


@dataclass(frozen=True)
class Convergence:
    """Training curves over the last fifth of the epochs.

    Attributes:
        loss_fall: relative fall of the mean training loss from the first to the last of these epochs.
        accuracy_move: range of the development accuracy, in points.
    """

    loss_fall: float
    accuracy_move: float

    @property
    def converged(self) -> bool:
        """The loss fell by less than 2 % and the accuracy moved by less than half a point."""
        return self.loss_fall < LOSS_FALL and self.accuracy_move < ACCURACY_MOVE


def convergence(runs: Sequence[Run]) -> Convergence:
    """Judge the curves of one training, averaged over its seeds. Of less than ten epochs, the last two count.

    Raises:
        ValueError: there is one epoch, or the seeds differ in their number.
    """
    loss, accuracy = (np.mean([curve(run, name) for run in runs], axis=0) for name in CURVES)
    if len(loss) < 2:
        raise ValueError("one epoch tells nothing about convergence")
    last = max(len(loss) // 5, 2)
    loss, accuracy = loss[-last:], accuracy[-last:]
    return Convergence(float(1 - loss[-1] / loss[0]), float(accuracy.max() - accuracy.min()))


def convergence_table(runs: pd.DataFrame, logs: Path) -> pd.DataFrame:
    """A row per full model, over its seeds; models whose curves are not in the run folders are left out."""
    rows = []
    full = runs[runs["method"] == "full"]
    for (data, backbone, name), seeds in full.groupby(["data", "backbone", "run"], sort=False):
        try:
            end = convergence(folders_of(seeds, logs))
        except (OSError, LookupError, ValueError):  # no or other curves
            continue
        cells = {"data": data, "backbone": backbone, "run": name, "seeds": str(len(seeds))}
        cells |= {"loss fell by": f"{end.loss_fall:.1%}", "accuracy moved by": f"{end.accuracy_move:.2f} points"}
        rows.append(cells | {"converged": "yes" if end.converged else "no"})
    return pd.DataFrame(rows)


def curve(run: Run, name: str) -> NDArray[np.float64]:
    """The values logged under `name`, in order."""
    metrics = pd.read_csv(run.metrics)
    return metrics.loc[metrics["metric"] == name, "value"].to_numpy(np.float64)
