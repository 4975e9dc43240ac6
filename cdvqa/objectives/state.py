"""The parameters of an objective, in `objective.safetensors` beside the network that it trained."""

from pathlib import Path
from typing import Literal

from pytorch_lightning.utilities import rank_zero_info
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from cdvqa.errors import InputError
from cdvqa.files import write_atomically
from cdvqa.objectives.objective import Objective

FILE = "objective.safetensors"
Purpose = Literal["start", "score", "teach"]


def class_path(part: nn.Module) -> str:
    """`package.module.Class` of a part of the model."""
    return f"{type(part).__module__}.{type(part).__qualname__}"


def save_objective(objective: Objective, folder: Path) -> None:
    """Write the objective's parameters into `folder`, if it has any that are not in the network file."""
    own = objective.state_dict().items()
    state = {key: value.detach().cpu().contiguous() for key, value in own if not objective.ships(key)}
    if state:
        with write_atomically(folder / FILE) as temporary:
            save_file(state, temporary, {"objective": class_path(objective)})


def load_objective(objective: Objective, folder: Path, purpose: Purpose) -> None:
    """Load the objective's parameters from `folder`, if the same objective saved them; log a file that is not read.

    Args:
        objective: newly built.
        folder: of the network that the objective trained.
        purpose: `start` a stage; `score` answers, if `scores` uses the parameters; or `teach`, which needs all of them.

    Raises:
        InputError: the file is unreadable or does not fit; or it is needed, and absent or another objective's.
    """
    path, name, theirs = folder / FILE, class_path(objective), None
    beside = [key for key in objective.state_dict() if not objective.ships(key)]
    if purpose == "start":
        wanted = not objective.fresh_in_each_stage
    elif purpose == "score":
        wanted = type(objective).scores is not Objective.scores and not objective.in_network
    else:
        wanted = True
    reads, needed = bool(beside and wanted), purpose != "start"
    if needed and not reads:
        return
    if path.is_file():
        try:
            with safe_open(path, framework="pt") as file:
                theirs = (file.metadata() or {}).get("objective")
                if theirs == name and reads:
                    objective.load_state_dict(objective.state_dict() | {key: file.get_tensor(key) for key in beside})
                    rank_zero_info(f"objective: {path}")
        except (SafetensorError, OSError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            if not reads:
                rank_zero_info(f"objective: {path} cannot be read ({reason}); {name} takes nothing from it")
                return
            raise InputError(f"{path}: does not fit {name} ({reason}); copy it again") from error
    if theirs != name and needed:
        what = f"is of objective {theirs}" if theirs else "is missing"
        use = "the scores of" if purpose == "score" else "a teacher trained with"
        raise InputError(f"{path}: {what}; {use} {name} needs its parameters")
    if theirs not in (name, None):
        rank_zero_info(f"objective: {path} is of {theirs} and is not read")
