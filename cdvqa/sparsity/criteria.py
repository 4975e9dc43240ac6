"""Which weights matter: the criterion that picks the first mask, of one-shot pruning and of mask training."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from cdvqa.errors import InputError

Gradients = Mapping[str, Tensor]
"""Gradient of the mean loss of one training batch, by matrix name."""


class Criterion(ABC):
    """The importance of every weight; the least important ones become zero first.

    A criterion that needs gradients sets `batches`: a class attribute, or an option that `__init__` takes. An example,
    used by `--model.sparsity.criterion my_file.Fisher`:

        class Fisher(Criterion):
            batches = 8

            def importance(self, weights, gradients):
                total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
                for gradient in gradients:
                    for name in weights:
                        total[name] += gradient[name] ** 2
                return {name: weights[name] ** 2 * total[name] for name in weights}
    """

    batches: int = 0
    """Training batches (of `model.global_batch` questions) whose gradients it needs."""

    @abstractmethod
    def importance(self, weights: Mapping[str, Tensor], gradients: Iterable[Gradients]) -> Mapping[str, Tensor]:
        """The importance of every entry: by matrix name, a tensor of the weight's shape without NaN.

        Args:
            weights: the matrices to mask, by name; those that cannot reach the answer are always ranked by magnitude.
            gradients: one item per batch, computed when it is taken: dropout off, the same batches on every process.
        """


class Magnitude(Criterion):
    """|W|: one-shot magnitude pruning (paper section 2.2)."""

    def importance(self, weights: Mapping[str, Tensor], gradients: Iterable[Gradients]) -> Mapping[str, Tensor]:
        return {name: weight.abs() for name, weight in weights.items()}


class Random(Criterion):
    """Uniform random numbers: every entry is pruned with the same probability.

    Args:
        seed: of the numbers; the run's seed where None.
    """

    def __init__(self, seed: int | None = None) -> None:
        self.seed = seed

    def importance(self, weights: Mapping[str, Tensor], gradients: Iterable[Gradients]) -> Mapping[str, Tensor]:
        generator = torch.Generator().manual_seed(torch.initial_seed() if self.seed is None else self.seed)
        return {
            name: torch.rand(w.shape, generator=generator, device="cpu").to(w.device) for name, w in weights.items()
        }


class FirstOrder(Criterion):
    """|W · mean gradient of the stage's objective|: to first order, the change of the loss when the weight is removed.

    SNIP (Lee et al. 2019, Eq. 5) and first-order Taylor pruning (Molchanov et al. 2019, Eq. 8) without their scaling.

    Args:
        batches: training batches that the gradient is a mean over.
    """

    def __init__(self, batches: int = 16) -> None:
        if batches < 1:
            raise InputError(f"--model.sparsity.criterion_options.batches is {batches}; it counts batches, from 1 on")
        self.batches = batches

    def importance(self, weights: Mapping[str, Tensor], gradients: Iterable[Gradients]) -> Mapping[str, Tensor]:
        total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        for gradient in gradients:
            for name in total:
                total[name] += gradient[name] / self.batches
        return {name: (weights[name] * total[name]).abs() for name in weights}


CRITERIA: dict[str, type[Criterion]] = {"magnitude": Magnitude, "random": Random, "first_order": FirstOrder}
