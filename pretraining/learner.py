"""What the training loop needs of a small model."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from cdvqa.worlds.drawing import COLOURS, SHAPES, SIZES

KINDS = [len(COLOURS), len(SHAPES), len(SIZES)]


class Learner(nn.Module, ABC):
    """A model, the heads for its losses, and its training questions.

    Attributes:
        units: number of items that are shuffled: questions, or images with all their questions.
        batch: units in one step.
        steps: optimiser steps.
        rate: learning rate at the top of its schedule.
    """

    units: int
    batch: ClassVar[int]
    steps: ClassVar[int]
    rate: ClassVar[float] = 1e-3

    @abstractmethod
    def losses(self, rows: Tensor, noise: float) -> dict[str, Tensor]:
        """The losses of the units in `rows`; regions get new noise of a strength between 0 and `noise`."""

    @abstractmethod
    def save(self, output: Path) -> None:
        """Write the files that ship."""


def kind_loss(scores: tuple[Tensor, ...], things: Tensor) -> Tensor:
    """Cross-entropy of the scores (K, ·) of K things against their colours, shapes and sizes (K, 3)."""
    return torch.stack(
        [functional.cross_entropy(score, kind) for score, kind in zip(scores, things.unbind(-1), strict=True)]
    ).sum()


def naming_loss(scores: Tensor, things: Tensor, named: Tensor) -> Tensor:
    """Binary cross-entropy of the scores (K, 2): does the question name the thing's colour, and its shape?

    `things` (K, 3); `named` (K, colours + shapes), the words of each thing's question.
    """
    is_named = named.gather(1, things[:, :2] + torch.tensor([0, len(COLOURS)]))
    return functional.binary_cross_entropy_with_logits(scores, is_named)
