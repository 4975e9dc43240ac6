"""Answer heads: the authors' classifier, and cosines in place of its last Linear."""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.nn.utils.parametrizations import weight_norm


def answer_head(hidden_size: int, num_answers: int, dropout: float = 0.5) -> nn.Sequential:
    """Weight-norm Linear H → 2H, ReLU, Dropout, weight-norm Linear 2H → A; one scalar norm per matrix, biases 0.

    Source: the authors' code, `hg_transformers/classifier.py`.
    """
    first, second = nn.Linear(hidden_size, 2 * hidden_size), nn.Linear(2 * hidden_size, num_answers)
    for layer in (first, second):
        nn.init.zeros_(layer.bias)
        weight_norm(layer, dim=None)  # type: ignore[arg-type]
    return nn.Sequential(first, nn.ReLU(), nn.Dropout(dropout), second)


class CosineHead(nn.Module):
    """cos θ_a = ⟨f, k_a⟩ / (‖f‖ ‖k_a‖) of features f (B, inputs) and a kernel k_a for each answer: (B, answers).

    Source: Guo et al. (2021), `modules/base_model.py`; kernels start uniform in ±1/inputs, as there.
    """

    def __init__(self, inputs: int, answers: int) -> None:
        super().__init__()
        self.kernels = nn.Parameter(torch.empty(answers, inputs).uniform_(-1 / inputs, 1 / inputs))

    def forward(self, features: Tensor) -> Tensor:
        return normalize(features, dim=1) @ normalize(self.kernels, dim=1).T
