"""A pruning criterion that needs gradients: the diagonal of the empirical Fisher information."""

import torch

from cdvqa.sparsity import Criterion


class Fisher(Criterion):
    """w² · Σ g²: by how much the loss changes, to second order, without the weight (LeCun et al. 1990).

    Args:
        batches: training batches whose gradients g are summed.
    """

    def __init__(self, batches: int = 8) -> None:
        self.batches = batches

    def importance(self, weights, gradients):
        squares = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        for gradient in gradients:  # one dictionary per batch
            for name in weights:
                squares[name] += gradient[name] ** 2
        return {name: weights[name] ** 2 * squares[name] for name in weights}
