"""Stage 2: find a sparse subnetwork of the fine-tuned model."""

from typing import Any

import torch

from cdvqa.sparsity import Sparsity, Subnetwork, attach_fixed_masks, attach_masks, omp_masks
from cdvqa.stages.stage import VQAStage


class MaskTrain(VQAStage):
    """Stage 2. Trains masks over frozen weights, and the classifier; or prunes by magnitude in one shot (OMP).

    Args:
        sparsity: method, assignment and share of zeros.
    """

    stage = 2

    def __init__(self, *args: Any, sparsity: Sparsity = Sparsity(), **kwargs: Any) -> None:  # noqa: B008 (immutable use)
        self.sparsity = sparsity
        super().__init__(*args, **kwargs)

    def shape_model(self, network: Subnetwork | None) -> None:
        assert self.sparsity is not None
        groups = self.backbone.matrices()
        rates = self.sparsity.rates(self.counts)
        self.backbone.requires_grad_(False)
        self.backbone.classifier.requires_grad_(self.protocol.train_classifier)
        for name in self.backbone.authors_also_train() if self.preset == "authors" else ():
            self.backbone.get_parameter(name).requires_grad_(True)
        plan, dead, tie_break = self.sparsity, self.backbone.dead(), self.protocol.tie_break
        if plan.method == "omp":
            masks = omp_masks(
                self.backbone,
                groups,
                rates,
                assignment=plan.assignment,
                overall=plan.overall,
                tie_break=tie_break,
                dead=dead,
            )
            attach_fixed_masks(self.backbone, masks)
            return
        attach_masks(
            self.backbone,
            groups,
            rates,
            assignment=plan.assignment,
            overall=plan.overall,
            initialisation=plan.initialisation,
            alpha=plan.alpha,
            threshold=plan.threshold,
            tie_break=tie_break,
            dead=dead,
            generator=torch.Generator().manual_seed(torch.initial_seed()),
        )
