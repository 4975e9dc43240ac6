"""Training objectives, one file each; the name is what configs and run folders use."""

import inspect
from typing import Any

from cdvqa.errors import InputError
from cdvqa.objectives.bce import BCE
from cdvqa.objectives.ce import CE
from cdvqa.objectives.lmh import LMH
from cdvqa.objectives.lpf import LPF
from cdvqa.objectives.objective import Loss, Objective
from cdvqa.objectives.rubi import RUBi

OBJECTIVES: dict[str, type[Objective]] = {"bce": BCE, "ce": CE, "lmh": LMH, "rubi": RUBi, "lpf": LPF}


def make_objective(name: str, hidden_size: int, **options: Any) -> Objective:
    """Build the objective called `name`.

    Args:
        name: one of `OBJECTIVES`.
        hidden_size: width of the backbone's pooled output, which LMH's gate reads.
        options: the objective's own arguments, such as `gamma` of LPF.

    Raises:
        InputError: unknown name or option.
    """
    check_objective(name)
    accepted = inspect.signature(OBJECTIVES[name]).parameters
    if unknown := sorted(set(options) - set(accepted)):
        known = ", ".join(sorted(set(accepted) - {"hidden_size"})) or "none"
        raise InputError(f"--model.objective_options: {name} does not take {', '.join(unknown)} (it takes: {known})")
    return OBJECTIVES[name](**({"hidden_size": hidden_size} if "hidden_size" in accepted else {}), **options)


def check_objective(name: str, flag: str = "--model.objective") -> None:
    """Raise InputError where `name` is no objective; `flag` is what the user has to mend."""
    if name not in OBJECTIVES:
        raise InputError(f"{flag}: unknown objective {name!r}; known are {', '.join(OBJECTIVES)}")


__all__ = ["BCE", "CE", "LMH", "LPF", "OBJECTIVES", "Loss", "Objective", "RUBi", "check_objective", "make_objective"]
