"""Small networks of an objective that look at the question or the image alone."""

from torch import Tensor, nn


class Branch(nn.Sequential):
    """Linear, ReLU, Linear, ReLU, Linear: (B, inputs) → (B, outputs), as RUBi and CF-VQA have it.

    Its input is taken as it is: the backbone learns nothing from a branch.
    """

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        first, second, last = nn.Linear(inputs, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, outputs)
        super().__init__(first, nn.ReLU(), second, nn.ReLU(), last)

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features.detach())  # type: ignore[no-any-return]
