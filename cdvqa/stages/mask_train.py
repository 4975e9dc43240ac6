"""Stage 2: find a sparse subnetwork of the fine-tuned model."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain, islice
from typing import Any

import torch
from pytorch_lightning.utilities import rank_zero_info
from torch import nn

from cdvqa.messages import progress_bar
from cdvqa.sparsity import NetworkFile, Sparsity, attach_fixed_masks, attach_masks, one_shot_masks
from cdvqa.sparsity.attach import check_levels
from cdvqa.sparsity.criteria import Criterion, Gradients, Magnitude
from cdvqa.sparsity.masks.matrices import masked_matrices
from cdvqa.stages.stage import VQAStage


class MaskTrain(VQAStage):
    """Stage 2. Trains masks over frozen weights, and the classifier; or prunes once by a criterion (one-shot).

    Args:
        sparsity: method, assignment, criterion and share of zeros.
    """

    stage = 2

    def __init__(self, *args: Any, sparsity: Sparsity = Sparsity(), **kwargs: Any) -> None:  # noqa: B008 (immutable use)
        self.sparsity = sparsity  # the constructor of VQAStage reads its method
        super().__init__(*args, **kwargs)
        self.sparsity = plan = sparsity.settled(self.counts)
        if plan.overall != sparsity.overall:
            rank_zero_info(f"the three shares give an overall sparsity of {plan.overall:g}, not {sparsity.overall:g}")
        self.rates = plan.rates(self.counts)
        if plan.method == "mask" and plan.scores == "two_level":
            check_levels(plan.alpha, plan.threshold, self.protocol.tie_break)

    def shape_model(self, network: NetworkFile | None) -> None:
        plan, groups = self.sparsity, self.backbone.matrices()
        assert plan is not None
        self.backbone.requires_grad_(False)
        self.backbone.classifier.requires_grad_(self.protocol.train_classifier)
        for name in self.backbone.authors_also_train() if self.preset == "authors" else ():
            self.backbone.get_parameter(name).requires_grad_(True)
        # A checkpoint fills in the masks, so its run need not compute them again.
        criterion: Criterion = Magnitude() if self.resumes else plan.make_criterion()
        options: dict[str, Any] = {
            "assignment": plan.make_assignment(),
            "overall": plan.overall,
            "pattern": plan.pattern,
            "structures": self.backbone.structures(),
            "criterion": criterion,
            "gradients": self.gradients(criterion.batches),
            "tie_break": self.protocol.tie_break,
            "dead": self.backbone.dead(),
        }
        with progress_bar("first masks"):
            if plan.method == "omp":
                attach_fixed_masks(self.backbone, one_shot_masks(self.backbone, groups, self.rates, **options))
                return
            options |= {"scores": plan.scores, "alpha": plan.alpha, "threshold": plan.threshold}
            attach_masks(self.backbone, groups, self.rates, **options)

    # An assignment may depend on the weights. A resumed run loads these after the assignment, so the groups are saved.

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        places = {matrix.name: matrix.mask.placement for matrix in masked_matrices(self.backbone)}
        checkpoint["groups"] = {name: (place.group, place.share) for name, place in places.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        groups = checkpoint.get("groups", {})
        for name, _, _, mask, _ in masked_matrices(self.backbone):
            if name in groups:
                group, share = groups[name]
                mask.placement = replace(mask.placement, group=group, share=share)

    def gradients(self, batches: int) -> Iterator[Gradients]:
        """The gradient of the objective on each of the first training batches, by matrix name.

        Dropout is off, and every process computes the same: a batch holds `global_batch` questions, in the order of the
        first epoch, and is read in parts of the size that one process takes at once, unless a term needs all of it.
        """
        if not batches:
            return
        device = self.trainer.strategy.root_device
        self.to(device)
        names = [name for members in self.backbone.matrices().values() for name in members]
        weights = [self.backbone.get_parameter(name).requires_grad_(True) for name in names]
        loader, parts = self.facts.first_batches(self.objective.batch_dependent)
        pieces = iter(loader)
        with evaluating(self):
            while batches and (first := next(pieces, None)) is not None:
                total, questions = [torch.zeros_like(weight) for weight in weights], 0
                for piece in chain([first], islice(pieces, parts - 1)):
                    loss = self.loss(piece.to(device).widened())
                    found = torch.autograd.grad(loss.total, weights, allow_unused=True)
                    for gradient, part in zip(total, found, strict=True):
                        if part is not None:
                            gradient.add_(part, alpha=loss.count)
                    questions += loss.count
                yield dict(zip(names, [gradient / max(questions, 1) for gradient in total], strict=True))
                batches -= 1


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode, so no dropout; afterwards each submodule is in its former mode."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True
