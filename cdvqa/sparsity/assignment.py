"""How sparse each modality is: the options of `model.sparsity` and the budget that ties them together."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Optional

from cdvqa.errors import InputError

LXMERT_COUNTS: Mapping[str, int] = {"language": 87_141_888, "vision": 36_965_376, "cross": 82_575_360}
"""Prunable weights of LXMERT-base per modality; the pooler (589,824) always takes the overall sparsity."""

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


@dataclass
class Sparsity:
    """Which weights become zero, and how many. Every sparsity is a share of zeros; 0.9 keeps one weight in ten."""

    method: Literal["mask", "omp"] = "mask"
    """`mask` trains the masks; `omp` takes the smallest weights away at once (one-shot magnitude pruning)."""

    assignment: Literal["uniform", "modality", "global"] = "uniform"
    """Who takes how much: every matrix the same, each modality its own, or one threshold over all matrices."""

    overall: float = 0.5
    """Share of zeros over all prunable weights."""

    language: Optional[float] = None
    """Share of zeros of the language modules (assignment `modality`: give two of the three, or all)."""

    vision: Optional[float] = None
    """Share of zeros of the vision modules (assignment `modality`)."""

    cross: Optional[float] = None
    """Share of zeros of the cross-modality modules (assignment `modality`)."""

    initialisation: Literal["magnitude", "random", "weight"] = "magnitude"
    """Which entries start at zero: those of the smallest weights, or as many drawn at random. `weight` is `magnitude`
    with every score starting at its own |weight|, as in the authors' mPLUG."""

    alpha: float = 2.0
    """A kept entry starts with the score alpha x threshold."""

    threshold: float = 0.01
    """Threshold of the scores until the first reset."""

    reset_every: int = 100
    """Optimiser steps between two resets of the thresholds."""

    def __post_init__(self) -> None:
        for name in ("overall", *MODALITIES):
            share = getattr(self, name)
            if share is not None and not 0 <= share <= 1:
                raise InputError(f"--model.sparsity.{name} is {share:g}; a share of zeros lies between 0 and 1")
        if self.assignment != "modality":
            for name in MODALITIES:
                if getattr(self, name) is not None:
                    raise InputError(
                        f"--model.sparsity.{name} needs --model.sparsity.assignment modality, not {self.assignment}"
                    )
        if not self.alpha > 1:
            raise InputError(
                f"--model.sparsity.alpha is {self.alpha:g}; kept scores start above the threshold: alpha > 1"
            )
        if not self.threshold > 0:
            raise InputError(f"--model.sparsity.threshold is {self.threshold:g}; it must be greater than 0")
        if self.reset_every < 1:
            raise InputError(
                f"--model.sparsity.reset_every is {self.reset_every}; it counts optimiser steps, from 1 on"
            )

    def rates(self, counts: Mapping[str, int]) -> dict[str, float]:
        """Share of zeros of each modality in `counts` (prunable weights per modality, as the backbone names them).

        Under `uniform` and `global` each takes the overall share. Under `modality` the budget over language, vision
        and cross decides, and any other module (the pooler) takes the overall share.

        Raises:
            InputError: assignment `modality` on a backbone without the three, or shares that do not add up.
        """
        rates = dict.fromkeys(counts, self.overall)
        if self.assignment == "modality":
            missing = [name for name in MODALITIES if not counts.get(name)]
            if missing:
                raise InputError(
                    f"--model.sparsity.assignment modality needs a backbone with language, vision and cross modules; "
                    f"this one has no {missing[0]} (it has {', '.join(counts)})"
                )
            rates |= solve_budget(self.overall, self.language, self.vision, self.cross, counts)
        return rates
