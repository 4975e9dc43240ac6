"""Backbones with the authors' answer head: how they answer, and how the head is saved and loaded."""

from pathlib import Path
from typing import cast

import orjson
import torch
from pytorch_lightning.utilities import rank_zero_info
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from cdvqa.backbones.backbone import Backbone
from cdvqa.data.batch import VQABatch
from cdvqa.errors import InputError
from cdvqa.objectives.heads import answer_head

__all__ = ["HEAD_FILE", "Classification", "answer_head", "load_answer_head", "save_answer_head"]

HEAD_FILE = "answer_head.safetensors"


class Classification(Backbone):
    """A backbone whose classifier scores the strings of the answer vocabulary."""

    classifier: nn.Sequential

    def answer(self, batch: VQABatch) -> list[str]:
        """The string of the highest logit, for each question."""
        assert self.answers is not None, "the stage hands over the vocabulary before evaluation"
        return [self.answers[index] for index in self(batch).logits.argmax(dim=1).tolist()]

    def warm_start(self, pretrained: str) -> None:
        """Load the answer head from the folder `pretrained`, if it holds one and the vocabulary is known."""
        file = Path(pretrained) / HEAD_FILE
        if self.answers is not None and file.is_file():
            matched = load_answer_head(self.classifier, self.answers, Path(pretrained))
            rank_zero_info(f"answer head: {matched} of {self.num_answers} answers from {file}")


def save_answer_head(head: nn.Sequential, answers: list[str], folder: Path) -> None:
    """Write the head (`answer_head`) and the answer of each of its outputs into the folder of its model."""
    tensors = {f"{i}.{name}": getattr(head[i], name).detach().clone() for i in (0, 3) for name in ("weight", "bias")}
    save_file(tensors, folder / HEAD_FILE, {"answers": orjson.dumps(answers).decode()})


@torch.no_grad()
def load_answer_head(head: nn.Sequential, answers: list[str], folder: Path) -> int:
    """Load a pre-trained head into `head`; return the number of outputs, matched by answer string, that it filled.

    Args:
        head: from `answer_head`; outputs whose answers the pre-trained head lacks keep their values, and so does an
            objective's own head in place of the last Linear.
        answers: the answer of each output of `head`.
        folder: a pre-trained model's folder that holds `answer_head.safetensors`.

    Raises:
        InputError: the file is unreadable, or of another width.
    """
    try:
        with safe_open(folder / HEAD_FILE, framework="pt") as file:
            theirs = orjson.loads(file.metadata()["answers"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{folder / HEAD_FILE}: cannot read the answer head ({error}); copy it again") from error
    first, second = cast(nn.Linear, head[0]), head[3]
    if tensors["0.weight"].shape != first.weight.shape:
        raise InputError(f"{folder / HEAD_FILE}: its answer head is of another width than the model's")
    # Assigning to a weight-normed weight sets its norm and direction, which copy_ would not.
    first.weight = tensors["0.weight"]
    first.bias.copy_(tensors["0.bias"])
    if not isinstance(second, nn.Linear):
        return 0
    ours = [i for i, answer in enumerate(answers) if answer in theirs]
    rows = [theirs.index(answers[i]) for i in ours]
    weight, bias = second.weight.clone(), second.bias.clone()
    weight[ours], bias[ours] = tensors["3.weight"][rows], tensors["3.bias"][rows]
    second.weight = weight
    second.bias.copy_(bias)
    return len(ours)
