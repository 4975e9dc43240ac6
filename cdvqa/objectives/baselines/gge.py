"""GGE: the model is trained on what the biases do not explain."""

from typing import Literal

from torch import Tensor

from cdvqa.objectives.bce import binary_cross_entropy
from cdvqa.objectives.branches import AnsweringBranch
from cdvqa.objectives.objective import Loss, Objective

NEEDS = {
    "d": frozenset({"prior"}),
    "q": frozenset({"question"}),
    "dq": frozenset({"prior", "question"}),
    "dq_iter": frozenset({"prior", "question"}),
}


class GGE(Objective):
    """Greedy gradient ensemble: BCE with a pseudo-label ŷ that is small where a bias already gives the answer.

    The biases are the prior p_b and a question-only branch, with scores z mixed in and W z + b = q̂ of its own. BCE is
    summed over answers; ŷ(t, b) is `pseudo_label`. By mode:

        d        BCE(x, ŷ(t, p_b))
        q        BCE(q̂, t) + BCE(x, ŷ(t, q̂))
        dq       BCE(q̂, ŷ(t, p_b)) + BCE(x, ŷ(t, σ(q̂) + p_b))
        dq_iter  in each step first BCE(q̂, ŷ(t, p_b)) over the branch, then BCE(x, ŷ(t, σ(z) + p_b)) over all

    As in the authors' code, the gradient reaches the branch through ŷ too, `q` takes q̂ without a sigmoid, and the
    second half of `dq_iter` takes z in place of q̂. At test the logits x are ranked.

    Source: Han et al. (2021), GeraldHan/GGE.

    Args:
        question_size: Hq, width of `question`.
        num_answers: A.
        mode: the biases: distribution (`d`), question (`q`), or both, together (`dq`) or in turn (`dq_iter`).
        width: of the branch's hidden layers.
    """

    def __init__(
        self,
        question_size: int,
        num_answers: int,
        mode: Literal["d", "q", "dq", "dq_iter"] = "dq",
        width: int = 1024,
    ) -> None:
        super().__init__()
        self.mode, self.needs = mode, NEEDS[mode]
        if "question" in self.needs:
            self.branch = AnsweringBranch(question_size, width, num_answers)
        if mode == "dq_iter":
            self.first = self.first_half

    def loss(self, logits: Tensor, soft_target: Tensor, **seen: Tensor) -> Loss:
        """The loss of B questions; `seen` is what the mode needs of prior (B, A) and question (B, Hq)."""
        terms = {}
        if self.mode == "d":
            known = seen["prior"]
        else:
            bias, answer = self.branch(seen["question"])
            if self.mode == "q":
                terms["question"] = binary_cross_entropy(answer, soft_target)
                known = answer
            elif self.mode == "dq":
                terms["question"] = branch_loss(answer, soft_target, seen["prior"])
                known = answer.sigmoid() + seen["prior"]
            else:
                known = bias.sigmoid() + seen["prior"]
        terms["task"] = binary_cross_entropy(logits, pseudo_label(soft_target, known))
        return Loss(sum(terms.values(), logits.new_zeros(())), terms, len(logits))

    def first_half(self, logits: Tensor, soft_target: Tensor, prior: Tensor, question: Tensor) -> Loss:
        """What the branch alone is trained on in each step of `dq_iter`, before `loss` is formed."""
        _, answer = self.branch(question)
        loss = branch_loss(answer, soft_target, prior)
        return Loss(loss, {"question": loss}, len(logits))


def branch_loss(answer: Tensor, soft_target: Tensor, prior: Tensor) -> Tensor:
    """BCE(q̂, ŷ(t, p_b)) of the branch's answer, from three (B, A)."""
    return binary_cross_entropy(answer, pseudo_label(soft_target, prior))


def pseudo_label(target: Tensor, bias: Tensor) -> Tensor:
    """ŷ(t, b) = 2 t σ(−2 t b), elementwise: t at b = 0, less the more a bias b says so already, above t at b < 0."""
    return 2 * target * (-2 * target * bias).sigmoid()
