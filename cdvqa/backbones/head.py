"""The answer head of the authors' classification models."""

from torch import nn
from torch.nn.utils.parametrizations import weight_norm


def answer_head(hidden_size: int, num_answers: int, dropout: float = 0.5) -> nn.Sequential:
    """Weight-norm Linear H → 2H, ReLU, Dropout, weight-norm Linear 2H → A; one scalar norm per matrix, biases 0.

    Source: the authors' classifier ("Model heads").
    """
    first, second = nn.Linear(hidden_size, 2 * hidden_size), nn.Linear(2 * hidden_size, num_answers)
    for layer in (first, second):
        nn.init.zeros_(layer.bias)
        weight_norm(layer, dim=None)  # type: ignore[arg-type]
    return nn.Sequential(first, nn.ReLU(), nn.Dropout(dropout), second)
