"""Methods that search the shares of zeros of the modalities; each proposes trials and reads their results."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from scipy.stats.qmc import Sobol

from cdvqa.errors import InputError
from cdvqa.sparsity import MODALITIES, solve_budget
from cdvqa.studies.sweep.shares import grid_shares

# The paper's grid (App. C.4), in shares of zeros.
COARSE = (0.1, 0.3, 0.5, 0.7, 0.9)
AROUND = (-0.1, -0.05, 0.0, 0.05, 0.1)  # half a coarse step to each side of the best share
FINE = tuple(round(0.80 + 0.02 * step, 2) for step in range(10))
HIGH = 0.85  # overall sparsity from which only `FINE` is searched; the paper has 90 %
MOST = 0.98  # highest share of a modality
REACH = 0.2  # largest distance of a share of `random` from the overall one
RANDOM_COST = 0.15  # trainings of `random`, as a share of those of the first step of the grid
CURVES = "cdvqa.studies.search.curves.Curves"  # a name, as only the runs need torch


@dataclass(frozen=True)
class Trial:
    """An assignment to train.

    Attributes:
        language, vision: shares of zeros; that of the cross-modality modules follows (Eq. 10).
        callback: class path of a callback that finds other shares before training; the run then has a single step.
    """

    language: float
    vision: float
    callback: str = ""


class Outcome(NamedTuple):
    """What a trial gave."""

    dev: float
    """Accuracy on the development split, in percent."""
    shares: Mapping[str, float] = {}
    """Share of zeros of each modality that a callback found; empty without a callback."""


Results = Mapping[Trial, Outcome]
"""The outcome of each trial; those that failed are missing."""


class Search(ABC):
    """A method: proposes trials, and sees of their results nothing of a test split.

    Args:
        overall: share of zeros over the three modalities.
        counts: prunable weights per modality.
        seed: of random draws.

    Raises:
        InputError: the sparsity is so low or so high that there is nothing to assign.
    """

    def __init__(self, overall: float, counts: Mapping[str, int], seed: int = 0) -> None:
        if not 0 < overall < MOST:
            raise InputError(
                f"overall sparsity {overall:g}: there is nothing to search unless it lies between 0 and {MOST:g}"
            )
        self.overall, self.seed = overall, seed
        self.counts = {name: counts[name] for name in MODALITIES}

    @abstractmethod
    def next(self, results: Results) -> list[Trial]:
        """The trials to run after those in `results`; empty at the end."""

    def best(self, results: Results) -> Trial:
        """The best assignment of those that were trained, by the development split.

        Raises:
            InputError: nothing was trained.
        """
        trained = {trial: outcome.dev for trial, outcome in results.items() if not trial.callback}
        if not trained:
            raise InputError("no assignment could be trained")
        return max(trained, key=trained.__getitem__)

    def cost(self, results: Results) -> int:
        """Number of full trainings of stage 2."""
        return sum(not trial.callback for trial in results)


class Grid(Search):
    """The paper's grid (App. C.4): two modalities take 10–90 % in steps of 20 %, and Eq. 10 gives the third.

    A second step searches around the best in steps of 5 %. At high sparsity there is one step: 80–98 % by 2 %.
    """

    def next(self, results: Results) -> list[Trial]:
        if self.overall >= HIGH:
            return [] if results else self._trials(FINE)
        coarse = self._trials(COARSE)
        if not results:
            return coarse
        if any(trial not in coarse for trial in results):
            return []
        best = self.best(results)
        shares = solve_budget(self.overall, language=best.language, vision=best.vision, counts=self.counts)
        around = {name: [share + step for step in AROUND if 0 <= share + step <= 1] for name, share in shares.items()}
        found = grid_shares(around, self.overall, self.counts)
        return [trial for trial in map(as_trial, found) if trial not in results]

    def _trials(self, levels: Sequence[float]) -> list[Trial]:
        return list(map(as_trial, grid_shares(dict.fromkeys(MODALITIES, levels), self.overall, self.counts)))


class Random(Search):
    """Sobol' points, each trained to the end: the baseline, at `RANDOM_COST` of the grid's first step.

    The shares of all three modalities are within `REACH` of the overall share.
    """

    def next(self, results: Results) -> list[Trial]:
        if results:
            return []
        grid = Grid(self.overall, self.counts).next({})
        return self._sampled(max(1, int(RANDOM_COST * len(grid))))

    def _sampled(self, number: int) -> list[Trial]:
        low, high = max(self.overall - REACH, 0.0), min(self.overall + REACH, MOST)
        points = Sobol(2, seed=self.seed)
        found: list[Trial] = []
        while len(found) < number:
            for vision, cross in low + (high - low) * points.random(16):
                try:
                    shares = solve_budget(self.overall, vision=vision, cross=cross, counts=self.counts)
                except InputError:  # the share of language would lie outside 0 to 1
                    continue
                if low <= shares["language"] <= high:
                    found.append(Trial(shares["language"], vision))
        return found[:number]


class Auto(Search):
    """Finds shares from the loss before mask training (`CURVES`), then trains them once."""

    def next(self, results: Results) -> list[Trial]:
        first = Trial(self.overall, self.overall, CURVES)
        if not results:
            return [first]
        return [as_trial(results[first].shares)] if len(results) == 1 else []


def as_trial(shares: Mapping[str, float]) -> Trial:
    """A full training with these shares."""
    return Trial(round(shares["language"], 9), round(shares["vision"], 9))


METHODS: dict[str, type[Search]] = {
    "auto": Auto,
    "grid": Grid,
    "random": Random,
}
