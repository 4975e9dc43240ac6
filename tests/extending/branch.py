"""An objective with a question-only branch, whose part in the answer is taken away again at test."""

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from cdvqa.objectives import Loss, Objective, Output
from cdvqa.objectives.branches import Branch


class Counterfactual(Objective):
    """Train x + z with z = branch(question); rank log σ(x + z) − log σ(c + z), after CF-VQA (Niu et al., 2021).

    The gradient of z stops at the question's features. The branch answers at test, so it is a part of the network.
    """

    needs = frozenset({"question"})
    in_network = True

    def __init__(self, question_size: int, num_answers: int, width: int = 64) -> None:
        super().__init__()
        self.branch = Branch(question_size, width, num_answers)
        self.without_image = nn.Parameter(torch.zeros(()))  # c: stands for x where there is no image

    def loss(self, logits, soft_target, question) -> Loss:
        bias = self.branch(question)
        task = self._bce(logits + bias, soft_target)
        alone = self._bce(bias, soft_target)
        constant = self._bce(self.without_image + bias.detach(), soft_target)
        terms = {"task": task, "question": alone, "constant": constant}
        return Loss(task + alone + constant, terms, count=len(logits), logged={"without_image": self.without_image})

    def scores(self, output: Output) -> torch.Tensor:
        bias = self.branch(output.question)
        return logsigmoid(output.logits + bias) - logsigmoid(self.without_image + bias)

    def _bce(self, logits, soft_target) -> torch.Tensor:
        return binary_cross_entropy_with_logits(logits, soft_target, reduction="sum") / len(logits)
