"""Objectives that use what the built-in ones do not: the whole batch, a head, a teacher, counts, parameters beside."""

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, normalize

from cdvqa.objectives import Loss, Objective, Output


def bce(logits, soft_target):
    return binary_cross_entropy_with_logits(logits, soft_target, reduction="sum") / len(logits)


class Contrast(Objective):
    """BCE, and the similarity of pooled outputs over the whole batch with random margins."""

    needs = frozenset({"hidden"})
    batch_dependent = True

    def loss(self, logits, soft_target, hidden):
        task, joint = bce(logits, soft_target), normalize(hidden, dim=1)
        margins = torch.rand(len(joint), 1, generator=self.generator).to(joint)
        contrast = ((joint @ joint.T - margins) ** 2).mean()
        return Loss(task + contrast, {"task": task, "contrast": contrast}, len(logits))


class CosineHead(nn.Module):
    """Cosines of the features with one direction for each answer."""

    def __init__(self, inputs: int, answers: int) -> None:
        super().__init__()
        self.directions = nn.Parameter(torch.randn(answers, inputs))

    def forward(self, features):
        return normalize(features, dim=1) @ normalize(self.directions, dim=1).T


class Margin(Objective):
    """Cross-entropy of cosines, less a margin for answers that are rare in the question's type."""

    needs = frozenset({"counts", "progress"})

    def head(self, inputs, answers):
        return CosineHead(inputs, answers)

    def loss(self, logits, soft_target, counts, progress):
        assert counts.sum() > 0 and 0 <= progress.step < progress.steps and progress.epoch < progress.epochs
        frequency = counts / counts.sum(dim=1, keepdim=True).clamp(min=1)
        loss = -(soft_target * (8 * (logits - 1 + frequency)).log_softmax(dim=1)).sum() / len(logits)
        return Loss(loss, {"task": loss}, len(logits))


class LogsProgress(Objective):
    """BCE; logs the progress of training, and a random number."""

    needs = frozenset({"progress"})
    batch_dependent = True

    def forward(self, logits, soft_target, **given):
        assert set(given) == self.needs, "the stage passes what is needed and no others"
        return super().forward(logits, soft_target, **given)

    def loss(self, logits, soft_target, progress):
        assert 0 <= progress.step < progress.steps and 0 <= progress.epoch < progress.epochs
        task, noise = bce(logits, soft_target), torch.rand((), generator=self.generator)
        logged = {name: torch.tensor(float(number)) for name, number in progress._asdict().items()}
        return Loss(task, {"task": task}, len(logits), logged | {"noise": noise})


class Distil(Objective):
    """BCE against half the probability that the teacher gives each answer; both have a cosine head."""

    needs = frozenset({"teacher"})

    def head(self, inputs, answers):
        return CosineHead(inputs, answers)

    def loss(self, logits, soft_target, teacher):
        assert isinstance(teacher, Output) and not teacher.logits.requires_grad
        loss = bce(logits, teacher.logits.sigmoid() / 2)
        gap = (teacher.logits - logits).detach().abs().max()
        return Loss(loss, {"task": loss}, len(logits), {"gap": gap})


class Scaled(Objective):
    """BCE of logits times a learned factor for each answer, which `scores` uses too."""

    def __init__(self, num_answers: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(num_answers))

    def loss(self, logits, soft_target):
        loss = bce(logits * self.scale, soft_target)
        return Loss(loss, {"task": loss}, len(logits))

    def scores(self, output):
        return output.logits * self.scale


class Rescaled(Scaled):
    """Another objective, whose parameters have the same name and shape."""


class Looks(Objective):
    """Takes what the backbone knows of the image alone."""

    needs = frozenset({"vision"})

    def loss(self, logits, soft_target, vision):
        return Loss(bce(logits, soft_target) + 0 * vision.sum(), {}, len(logits))
