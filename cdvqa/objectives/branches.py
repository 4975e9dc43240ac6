"""Branches: small networks of an objective that see the question or the image alone."""

from torch import Tensor, nn


class Branch(nn.Sequential):
    """Linear, ReLU, Linear, ReLU, Linear: (B, inputs) → (B, outputs), as RUBi and CF-VQA have it.

    Its input is detached: a branch does not train the backbone.
    """

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        first, second, last = nn.Linear(inputs, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, outputs)
        super().__init__(first, nn.ReLU(), second, nn.ReLU(), last)

    def forward(self, features: Tensor) -> Tensor:
        features = features.detach()
        for layer in self:
            features = layer(features)
        return features


class AnsweringBranch(nn.Module):
    """A branch that biases the scores of the main model, and the layer by which it learns to answer on its own.

    RUBi, LPF, CF-VQA and GGE share it. `bias` (B, A) is mixed into the scores of the main model; `answer` maps it to
    scores with a loss of their own, whose gradient reaches `bias` too.

    Args:
        inputs: width of the question's or the image's features.
        width: of the two hidden layers; 1024 in all four papers.
        answers: A.
    """

    def __init__(self, inputs: int, width: int, answers: int) -> None:
        super().__init__()
        self.bias = Branch(inputs, width, answers)
        self.answer = nn.Linear(answers, answers)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """The bias and the scores of its own answer, both (B, A), from features (B, inputs)."""
        bias = self.bias(features)
        return bias, self.answer(bias)
