"""RUBi, as the paper states it, and the original with a question-only branch."""

from torch import Tensor
from torch.nn.functional import cross_entropy

from cdvqa.objectives.branches import AnsweringBranch
from cdvqa.objectives.objective import LabelledObjective, Loss, labelled_only, mean_or_zero


class RUBi(LabelledObjective):
    """Cross-entropy of x ⊙ σ(p_b) with one label (Eq. 7).

    The prior's own sigmoid masks the logits. The original (`RUBiQ`) learns a question-only branch for this mask
    instead; neither the paper nor its code does.
    """

    def loss(self, logits: Tensor, soft_target: Tensor, prior: Tensor, label: Tensor) -> Loss:
        label, logits, prior = labelled_only(label, logits, prior)
        loss = masked(logits, prior, label)
        return Loss(loss, {"task": loss}, len(label))


class RUBiQ(LabelledObjective):
    """Cross-entropy of x ⊙ σ(z) and of W z + b with one label, z being a question-only branch.

    At test the logits x are ranked. Both terms train the branch; neither reaches the question encoder through it.

    Source: Cadene et al. (2019), cdancette/rubi.bootstrap.pytorch. They draw the label in proportion to the human
    answers; here it is the one of highest soft score.

    Args:
        question_size: Hq, width of `question`.
        num_answers: A.
        width: of the branch's hidden layers.
    """

    needs = frozenset({"question", "label"})

    def __init__(self, question_size: int, num_answers: int, width: int = 1024) -> None:
        super().__init__()
        self.branch = AnsweringBranch(question_size, width, num_answers)

    def loss(self, logits: Tensor, soft_target: Tensor, question: Tensor, label: Tensor) -> Loss:
        label, logits, question = labelled_only(label, logits, question)
        bias, answer = self.branch(question)
        terms = {
            "task": masked(logits, bias, label),
            "question": mean_or_zero(cross_entropy(answer, label, reduction="none")),
        }
        return Loss(terms["task"] + terms["question"], terms, len(label))


def masked(logits: Tensor, bias: Tensor, label: Tensor) -> Tensor:
    """Mean cross-entropy of logits ⊙ σ(bias), both (N, A), with labels (N,)."""
    return mean_or_zero(cross_entropy(logits * bias.sigmoid(), label, reduction="none"))
