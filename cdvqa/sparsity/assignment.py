"""How zeros are shared out: assignments, the budget over the modalities, and the options of `model.sparsity`."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple, Optional

from torch import Tensor

from cdvqa.errors import InputError
from cdvqa.registry import make
from cdvqa.sparsity.criteria import CRITERIA, Criterion
from cdvqa.sparsity.patterns import Pattern

LXMERT_COUNTS: Mapping[str, int] = {"language": 87_141_888, "vision": 36_965_376, "cross": 82_575_360}
"""Prunable weights of LXMERT-base per modality; the pooler's 589,824 are not part of the budget (paper Eq. 10)."""

MODALITIES = ("language", "vision", "cross")


def solve_budget(
    overall: float,
    language: float | None = None,
    vision: float | None = None,
    cross: float | None = None,
    counts: Mapping[str, int] = LXMERT_COUNTS,
) -> dict[str, float]:
    """The share of zeros of each modality that together give the overall share (paper Eq. 10).

    None given: all take the overall share. Two given: the third follows. Three given: they are checked to 1e-6.

    Args:
        overall: share of zeros over the three modalities, 0 to 1.
        language, vision, cross: share of zeros of the modality, 0 to 1, or None.
        counts: prunable weights per modality.

    Raises:
        InputError: a share outside 0 to 1, one share alone, or shares that cannot give the overall share; the message
            then names the overall shares that they can give.
    """
    given = {
        name: share for name, share in zip(MODALITIES, (language, vision, cross), strict=True) if share is not None
    }
    for name, share in {"overall": overall, **given}.items():
        if not 0 <= share <= 1:
            raise InputError(f"the {name} sparsity is {share:g}; a share of zeros lies between 0 and 1")
    missing = [name for name in MODALITIES if name not in counts]
    if missing:
        raise InputError(f"a budget over language, vision and cross needs the number of {missing[0]} weights")
    if not given:
        return dict.fromkeys(MODALITIES, overall)
    if len(given) == 1:
        (name,) = given
        others = " or ".join(other for other in MODALITIES if other != name)
        raise InputError(f"{name} sparsity alone leaves the budget open; give the sparsity of {others} as well")

    total = sum(counts[name] for name in MODALITIES)
    spent = sum(share * counts[name] for name, share in given.items())
    described = ", ".join(f"{name} {share:g}" for name, share in given.items())
    if len(given) == 3:
        if abs(spent / total - overall) > 1e-6:
            raise InputError(f"{described} give an overall sparsity of {spent / total:.6f}, not {overall:g}")
        return given
    (third,) = set(MODALITIES) - set(given)
    low, high = spent / total, (spent + counts[third]) / total
    # Ends of the range are legitimate answers (nothing or everything of the third is pruned), whatever rounding says.
    if not low - 1e-9 <= overall <= high + 1e-9:
        raise InputError(
            f"with {described} no {third} sparsity gives {overall:g} overall; "
            f"the overall sparsity can lie between {low:.6f} and {high:.6f}"
        )
    share = (overall * total - spent) / counts[third] if counts[third] else overall
    solved = {**given, third: min(max(share, 0.0), 1.0)}
    return {name: solved[name] for name in MODALITIES}


class Matrix(NamedTuple):
    """A matrix to mask, as an assignment sees it."""

    name: str
    modality: str
    weight: Tensor
    share: float
    """Share of zeros of its modality: the overall share, unless the options give the modality its own."""


class Group(NamedTuple):
    """Matrices whose entries are ranked together."""

    names: Sequence[str]
    share: float
    """Share of zeros over the entries of all these matrices, 0 to 1."""


class Assignment(ABC):
    """How the zeros are shared out among the matrices, at the start and at every reset.

    An example, used by `--model.sparsity.assignment my_file.SpareSmall --model.sparsity.assignment_options.size 1000`:

        class SpareSmall(Assignment):
            def __init__(self, size: int = 1000) -> None:
                self.size = size

            def groups(self, matrices, overall):
                return [Group([m.name], 0 if m.weight.numel() < self.size else overall) for m in matrices]
    """

    by_modality: ClassVar[bool] = False
    """Whether it uses `Matrix.share`, so that the options language, vision, cross and pooler may be given."""

    @abstractmethod
    def groups(self, matrices: Sequence[Matrix], overall: float) -> list[Group]:
        """Groups that hold every matrix once. `matrices` come in the order that decides ties between them."""


class Uniform(Assignment):
    """Every matrix has the overall share of zeros."""

    def groups(self, matrices: Sequence[Matrix], overall: float) -> list[Group]:
        return [Group([matrix.name], matrix.share) for matrix in matrices]


class Modality(Uniform):
    """Every matrix has the share of zeros of its modality (paper Eq. 10)."""

    by_modality = True


class Global(Assignment):
    """All entries are ranked together."""

    def groups(self, matrices: Sequence[Matrix], overall: float) -> list[Group]:
        return [Group([matrix.name for matrix in matrices], overall)]


class ModalityGlobal(Assignment):
    """All entries of a modality are ranked together."""

    by_modality = True

    def groups(self, matrices: Sequence[Matrix], overall: float) -> list[Group]:
        shares = {matrix.modality: matrix.share for matrix in matrices}
        return [Group([m.name for m in matrices if m.modality == key], share) for key, share in shares.items()]


ASSIGNMENTS: dict[str, type[Assignment]] = {
    "uniform": Uniform,
    "modality": Modality,
    "global": Global,
    "modality_global": ModalityGlobal,
}


@dataclass
class Sparsity:
    """Which weights become zero, and how many. Every sparsity is a share of zeros; 0.9 keeps one weight in ten."""

    method: Literal["mask", "omp"] = "mask"
    """`mask` trains the masks; `omp` prunes once, by the criterion."""

    assignment: str = "uniform"
    """How zeros are shared out: `uniform` (every matrix the same), `modality` (each modality its own share), `global`
    (all matrices ranked together), `modality_global` (ranked together within a modality), or package.module.Class."""

    assignment_options: Optional[dict[str, Any]] = None
    """Options of an assignment that is a class."""

    overall: float = 0.5
    """Share of zeros over all prunable weights; follows from the three shares below where all are given."""

    language: Optional[float] = None
    """Share of zeros of the language modules (by modality: give two or all three)."""

    vision: Optional[float] = None
    """Share of zeros of the vision modules."""

    cross: Optional[float] = None
    """Share of zeros of the cross-modality modules."""

    pooler: Optional[float] = None
    """Share of zeros of the pooler; the overall share where null."""

    pattern: Pattern = "unstructured"
    """Which weights are pruned as one: `unstructured`, each by itself; `2:4`, two of each four neighbours in a row;
    `block16x1`, 16 rows of one column; `structured`, attention heads and feed-forward neurons of each layer."""

    criterion: str = "magnitude"
    """What picks the first mask: `magnitude`, `random`, `first_order` (|weight x mean gradient|), or
    package.module.Class."""

    criterion_options: Optional[dict[str, Any]] = None
    """Options of the criterion, such as `batches` of `first_order`."""

    scores: Literal["two_level", "weight"] = "two_level"
    """How scores start: at 0 or alpha x threshold by the first mask, or at |weight|, as in the authors' mPLUG."""

    alpha: float = 2.0
    """A kept entry starts with the score alpha x threshold; alpha >= 1."""

    threshold: float = 0.01
    """Threshold of the scores until the first reset."""

    reset_every: int = 100
    """Optimiser steps between two resets of the thresholds."""

    def __post_init__(self) -> None:
        self.make_criterion()
        by_modality = self.make_assignment().by_modality
        for name in ("overall", *MODALITIES, "pooler"):
            share = getattr(self, name)
            if share is not None and not 0 <= share <= 1:
                raise InputError(f"--model.sparsity.{name} is {share:g}; a share of zeros lies between 0 and 1")
            if share is not None and name != "overall" and not by_modality:
                raise InputError(
                    f"--model.sparsity.{name} needs --model.sparsity.assignment modality or modality_global, "
                    f"not {self.assignment}"
                )
        if self.scores == "weight" and self.criterion != "magnitude":
            raise InputError(
                f"--model.sparsity.scores weight starts from the mask of the largest |weight|, not from that of "
                f"--model.sparsity.criterion {self.criterion}; use criterion magnitude or scores two_level"
            )
        if self.pattern != "unstructured" and self.scores == "weight":
            raise InputError(f"--model.sparsity.pattern {self.pattern} needs --model.sparsity.scores two_level")
        if self.pattern == "2:4" and (self.overall, self.assignment) != (0.5, "uniform"):
            raise InputError(
                "--model.sparsity.pattern 2:4 prunes two of each four weights: it needs overall 0.5 and assignment "
                f"uniform, not {self.overall:g} and {self.assignment}"
            )
        if not self.alpha >= 1:
            raise InputError(
                f"--model.sparsity.alpha is {self.alpha:g}; kept scores start at or above the threshold: alpha >= 1"
            )
        if not self.threshold > 0:
            raise InputError(f"--model.sparsity.threshold is {self.threshold:g}; it must be greater than 0")
        if self.reset_every < 1:
            raise InputError(
                f"--model.sparsity.reset_every is {self.reset_every}; it counts optimiser steps, from 1 on"
            )

    def make_assignment(self) -> Assignment:
        """The assignment that the options name."""
        options = self.assignment_options
        return make("--model.sparsity.assignment", self.assignment, ASSIGNMENTS, Assignment, options)

    def make_criterion(self) -> Criterion:
        """The criterion that the options name."""
        return make("--model.sparsity.criterion", self.criterion, CRITERIA, Criterion, self.criterion_options)

    def settled(self, counts: Mapping[str, int]) -> "Sparsity":
        """These options with the overall share that follows from language, vision and cross where all are given.

        Args:
            counts: prunable weights per modality, as the backbone names them.
        """
        given = [(getattr(self, name), counts.get(name, 0)) for name in MODALITIES]
        total = sum(count for _, count in given)
        if not total or any(share is None for share, _ in given):
            return self
        return replace(self, overall=round(sum(share * count for share, count in given) / total, 12))

    def rates(self, counts: Mapping[str, int]) -> dict[str, float]:
        """Share of zeros of each modality in `counts` (prunable weights per modality, as the backbone names them).

        Each takes the overall share; where shares are given, the budget over language, vision and cross decides.

        Raises:
            InputError: shares for a backbone without the modality, or shares that do not add up.
        """
        rates = dict.fromkeys(counts, self.overall)
        budget = any(getattr(self, name) is not None for name in MODALITIES)
        needed = [*(MODALITIES if budget else ()), *(["pooler"] if self.pooler is not None else ())]
        if missing := [name for name in needed if not counts.get(name)]:
            raise InputError(
                f"--model.sparsity: the shares need a backbone with {', '.join(needed)} modules; this one has no "
                f"{missing[0]} (it has {', '.join(counts)})"
            )
        if budget:
            rates |= solve_budget(self.settled(counts).overall, self.language, self.vision, self.cross, counts)
        return rates if self.pooler is None else rates | {"pooler": self.pooler}
