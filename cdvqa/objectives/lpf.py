"""LPF: questions that the prior, or a question-only branch, already answers weigh less."""

from types import MappingProxyType

from torch import Tensor
from torch.nn.functional import cross_entropy

from cdvqa.errors import InputError
from cdvqa.objectives.branches import AnsweringBranch
from cdvqa.objectives.objective import (
    LabelledObjective,
    Loss,
    Progress,
    labelled_only,
    mean_or_zero,
    negative_log_likelihood,
)

FLOOR = 1e-7  # the authors' clamp of both probabilities


class LPF(LabelledObjective):
    """Cross-entropy weighted by (1 − p_b[label])^γ (Eq. 8).

    The prior is a constant here. The original (`LPFQ`) takes p_b from a learned question-only branch.
    """

    sequence_options = MappingProxyType({"gamma": 1.0})  # the authors' mPLUG

    def __init__(self, gamma: float = 5.0) -> None:
        super().__init__()
        self.gamma = exponent(gamma)

    def loss(self, logits: Tensor, soft_target: Tensor, prior: Tensor, label: Tensor) -> Loss:
        label, logits, prior = labelled_only(label, logits, prior)
        loss = focal(logits, prior, label, self.gamma)
        return Loss(loss, {"task": loss}, len(label))

    def sequence(self, logits: Tensor, target: Tensor, weight: Tensor, prior: Tensor, questions: int) -> Loss:
        """(1/B) Σ_i w_i (1 − β_i)^γ ℓ_i, β_i being an answer's prior."""
        loss = (weight * (1 - prior) ** self.gamma * negative_log_likelihood(logits, target)).sum() / questions
        return Loss(loss, {"task": loss}, questions)


class LPFQ(LabelledObjective):
    """LPF with β = softmax(W z + b)[label] of a question-only branch z, and the branch's cross-entropy.

    At test the logits x are ranked. Both terms train the branch; neither reaches the question encoder through it.

    Source: Liang et al. (2021), jokieleung/LPF-VQA; γ is 5 in its configs. Their label is drawn in proportion to the
    human answers; here it is the one of highest soft score.

    Args:
        question_size: Hq, width of `question`.
        num_answers: A.
        gamma: γ.
        ce_epochs: number of epochs at the start of each stage with γ = 0, which is plain cross-entropy; 10 in the
            authors' recipe for S-MRL.
        width: of the branch's hidden layers.
    """

    needs = frozenset({"question", "label", "progress"})

    def __init__(
        self, question_size: int, num_answers: int, gamma: float = 5.0, ce_epochs: int = 0, width: int = 1024
    ) -> None:
        super().__init__()
        self.gamma, self.ce_epochs = exponent(gamma), ce_epochs
        self.branch = AnsweringBranch(question_size, width, num_answers)

    def loss(self, logits: Tensor, soft_target: Tensor, question: Tensor, label: Tensor, progress: Progress) -> Loss:
        label, logits, question = labelled_only(label, logits, question)
        _, answer = self.branch(question)
        gamma = self.gamma if progress.epoch >= self.ce_epochs else 0.0
        terms = {
            "task": focal(logits, answer.softmax(dim=1), label, gamma),
            "question": mean_or_zero(cross_entropy(answer, label, reduction="none")),
        }
        return Loss(terms["task"] + terms["question"], terms, len(label))


def exponent(gamma: float) -> float:
    """γ; below 0 the questions that the prior answers would weigh more, not less."""
    if not gamma >= 0:
        raise InputError(f"--model.objective_options.gamma {gamma}: expected 0 or more")
    return gamma


def focal(logits: Tensor, bias: Tensor, label: Tensor, gamma: float) -> Tensor:
    """Mean of (1 − β)^γ (−log p), with β = bias[label] and p = softmax(logits)[label].

    Args:
        logits: (N, A).
        bias: a probability of each answer, (N, A).
        label: (N,).
        gamma: γ.
    """
    probability = logits.softmax(dim=1).gather(1, label[:, None])[:, 0].clamp(min=FLOOR)
    known = bias.gather(1, label[:, None])[:, 0].clamp(min=FLOOR)
    return mean_or_zero((1 - known) ** gamma * -probability.log())
