"""The golden arrays' question-only and vision-only branches, in an objective and back."""

import numpy as np
import torch
from torch import nn

from cdvqa.objectives.branches import AnsweringBranch
from tests.objectives.inputs import assert_close, double


def names(first: str, last: str) -> dict[str, str]:
    """Our names of a branch's parameters, and the authors': an MLP `first` and a Linear `last`."""
    pairs = {f"bias.{2 * layer}": f"{first}.linears.{layer}" for layer in range(3)} | {"answer": last}
    return {f"{ours}.{kind}": f"{theirs}.{kind}" for ours, theirs in pairs.items() for kind in ("weight", "bias")}


@torch.no_grad()
def fill(branch: nn.Module, arrays: dict[str, np.ndarray], prefix: str, first: str, last: str) -> None:
    assert isinstance(branch, AnsweringBranch)
    branch.load_state_dict({ours: double(arrays[prefix + theirs]) for ours, theirs in names(first, last).items()})


def check_gradients(branch: nn.Module, arrays: dict[str, np.ndarray], prefix: str, first: str, last: str) -> None:
    """All gradients that the authors' code has; where it has none, ours has none or zeros."""
    for ours, theirs in names(first, last).items():
        expected = arrays.get(prefix + theirs)
        gradient = branch.get_parameter(ours).grad
        if expected is not None:
            assert_close(gradient, expected)
        else:
            assert gradient is None or not gradient.any(), ours
