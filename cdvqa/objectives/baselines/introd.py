"""IntroD: distillation from a debiased teacher, weighted question by question."""

from collections.abc import Callable

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from cdvqa.errors import InputError
from cdvqa.objectives.lmh import LMH
from cdvqa.objectives.objective import Loss, Objective
from cdvqa.objectives.output import Output

FLOOR = 1e-12  # the authors' clamp


class IntroD(Objective):
    """Learn from a teacher trained with LMH where the bias misleads, and from the human answers where it helps.

    With the teacher's debiased logits d, and e, those of its product with the prior (`LMH.ensemble`), each question has

        w = L(d) / (L(d) + L(e)),  L(y) = max(Σ BCE(y, t / Σt), 1e-12),
        loss = w · (−Σ softmax(d) log softmax(x)) + (1 − w) · Σ BCE(x, t).

    At test the student's logits are ranked; the network holds nothing of the teacher.

    Source: Niu and Zhang (2021), the variant of their code for LMH.
    """

    needs = frozenset({"prior", "teacher"})
    teacher: LMH

    def take_teacher(self, objective: Callable[[], Objective]) -> None:
        teacher = objective()
        if not isinstance(teacher, LMH):
            raise InputError(
                f"--model.teacher: introd learns from a run trained with lmh, and this one was trained with "
                f"{type(teacher).__name__}"
            )
        self.__dict__["teacher"] = teacher  # not a submodule: it is neither trained nor saved

    def loss(self, logits: Tensor, soft_target: Tensor, prior: Tensor, teacher: Output) -> Loss:
        assert teacher.logits is not None and teacher.hidden is not None, "a teacher of introd scores a vocabulary"
        ensemble = self.teacher.to(logits).ensemble(teacher.logits, prior, teacher.hidden)
        weight, distilled, taught = introspect(logits, soft_target, teacher.logits, ensemble)
        distilled, taught = (weight * distilled).mean(), ((1 - weight) * taught).mean()
        terms = {"distilled": distilled, "task": taught}
        return Loss(distilled + taught, terms, len(logits), {"weight": weight.mean()})


def introspect(
    logits: Tensor, soft_target: Tensor, debiased: Tensor, ensemble: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Weight w, cross-entropy with the teacher, and binary cross-entropy with the target of each question, each (B,).

    Args:
        logits: the student's, (B, A).
        soft_target: (B, A).
        debiased, ensemble: the teacher's logits without and with the bias, (B, A), without gradient.
    """
    shares = soft_target / soft_target.sum(dim=1, keepdim=True).clamp(min=FLOOR)
    out_of, within = (summed(scores, shares).clamp(min=FLOOR) for scores in (debiased, ensemble))
    distilled = -(debiased.softmax(dim=1) * logits.log_softmax(dim=1)).sum(dim=1)
    return out_of / (out_of + within), distilled, summed(logits, soft_target)


def summed(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy of each question, summed over answers, (B,)."""
    return binary_cross_entropy_with_logits(logits, target, reduction="none").sum(dim=1)
