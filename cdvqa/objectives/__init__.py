"""Training objectives, and the short names that configs and run folders use."""

import inspect
from typing import Any

from cdvqa.objectives.baselines.cf_vqa import CFVQA
from cdvqa.objectives.baselines.genb_lite import GenBLite
from cdvqa.objectives.baselines.gge import GGE
from cdvqa.objectives.baselines.grl import GRL
from cdvqa.objectives.baselines.introd import IntroD
from cdvqa.objectives.baselines.margin_cosine import MarginCosine
from cdvqa.objectives.baselines.mmbs import MMBS
from cdvqa.objectives.baselines.rescale import Rescale
from cdvqa.objectives.baselines.rmlvqa import RMLVQA
from cdvqa.objectives.bce import BCE
from cdvqa.objectives.ce import CE
from cdvqa.objectives.lmh import LMH, PoE
from cdvqa.objectives.lpf import LPF, LPFQ
from cdvqa.objectives.objective import Loss, Objective, Progress
from cdvqa.objectives.output import Output, SequenceOutput
from cdvqa.objectives.rubi import RUBi, RUBiQ
from cdvqa.registry import check_options, find_class

OBJECTIVES: dict[str, type[Objective]] = {
    "bce": BCE,
    "ce": CE,
    "lmh": LMH,
    "rubi": RUBi,
    "lpf": LPF,
    "poe": PoE,
    "mmbs": MMBS,
    "grl": GRL,
    "introd": IntroD,
    "genb_lite": GenBLite,
    "rubi_q": RUBiQ,
    "lpf_q": LPFQ,
    "cf_vqa": CFVQA,
    "gge": GGE,
    "rescale": Rescale,
    "margin_cosine": MarginCosine,
    "rmlvqa": RMLVQA,
}


def find_objective(name: str, flag: str = "--model.objective") -> type[Objective]:
    """The class of a short name, or of `package.module.Class`.

    Raises:
        InputError: no objective is called `name`; the message begins with `flag`.
    """
    return find_class(flag, name, OBJECTIVES, Objective)


def make_objective(name: str, hidden_size: int, **given: Any) -> Objective:
    """Build the objective called `name`.

    Args:
        name: a short name, or `package.module.Class`.
        hidden_size: width of the backbone's pooled output, which LMH's gate reads.
        given: the objective's own arguments, such as `gamma` of LPF; and num_answers, question_size and vision_size,
            which are passed on only to an objective that takes them.

    Raises:
        InputError: unknown name or option, or a value of another type.
    """
    kind = find_objective(name)
    sizes = {"hidden_size", "num_answers", "question_size", "vision_size"}
    options = {option: value for option, value in given.items() if option not in sizes}
    check_options("--model.objective", name, kind, options, sizes)
    accepted = inspect.signature(kind).parameters
    given["hidden_size"] = hidden_size
    return kind(**{option: value for option, value in given.items() if option in accepted})


__all__ = [
    "BCE",
    "CE",
    "LMH",
    "LPF",
    "OBJECTIVES",
    "Loss",
    "Objective",
    "Output",
    "PoE",
    "Progress",
    "RUBi",
    "SequenceOutput",
    "find_objective",
    "make_objective",
]
