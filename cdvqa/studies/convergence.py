"""Whether a training has converged, from its `metrics.csv`."""

from dataclasses import dataclass

import pandas as pd

from cdvqa.runs import Run

LOSS_FALL = 0.02  # of the loss a fifth before the end
ACCURACY_MOVE = 0.5  # points


@dataclass(frozen=True)
class Convergence:
    """What the last fifth of a training's epochs did.

    Attributes:
        loss_fall: how far the epoch's mean training loss fell, as a share of its value a fifth before the end.
        accuracy_move: range of the development accuracy over those epochs, in points.
    """

    loss_fall: float
    accuracy_move: float

    @property
    def converged(self) -> bool:
        """The loss fell by less than 2 % and the accuracy moved by less than half a point."""
        return self.loss_fall < LOSS_FALL and self.accuracy_move < ACCURACY_MOVE


def convergence(run: Run) -> Convergence:
    """Read the last fifth of the epochs, and the one before them, from the run's metrics."""
    metrics = pd.read_csv(run.metrics)
    loss, accuracy = (
        metrics.loc[metrics["metric"] == name, "value"].to_numpy() for name in ("train/loss/epoch", "val/accuracy/all")
    )
    last = max(1, len(loss) // 5) + 1
    loss, accuracy = loss[-last:], accuracy[-last:]
    return Convergence(float(1 - loss[-1] / loss[0]), float(accuracy.max() - accuracy.min()))
