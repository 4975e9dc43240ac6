"""GenB without its generator: the part of the targets that a biased model does not explain."""

from torch import Tensor

from cdvqa.objectives.baselines.gge import pseudo_label
from cdvqa.objectives.bce import binary_cross_entropy
from cdvqa.objectives.objective import Loss, Objective
from cdvqa.objectives.output import Output


class GenBLite(Objective):
    """BCE with the pseudo-labels clamp(2t σ(−2tb), 0, 1) of a biased teacher's logits b.

    GenB trains b beside the model, on noise in place of images and against a discriminator. Here b comes from a
    finished run, named by `model.teacher`: a weak model, such as UpDn trained with bce on the same training questions.

    Source: Cho et al. (2023), the loss of their target model.
    """

    needs = frozenset({"teacher"})

    def loss(self, logits: Tensor, soft_target: Tensor, teacher: Output) -> Loss:
        assert teacher.logits is not None, "a teacher of genb_lite scores a vocabulary"
        loss = binary_cross_entropy(logits, pseudo_label(soft_target, teacher.logits).clamp(0, 1))
        return Loss(loss, {"task": loss}, len(logits))
