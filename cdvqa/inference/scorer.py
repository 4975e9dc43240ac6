"""A finished network as one function of tensors, which every runtime computes."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from cdvqa.backbones import Backbone
from cdvqa.backbones.padding import trim_padding
from cdvqa.data.batch import VQABatch
from cdvqa.objectives import Objective


class Scorer(nn.Module):
    """Scores of all answers; the backbone is put into evaluation mode and cannot be trained afterwards.

    Args:
        backbone: scores a vocabulary; no masks are attached.
        objective: its `scores` are what is ranked.
        exact: leave out what no answer needs; the scores stay the same.
    """

    def __init__(self, backbone: Backbone, objective: Objective, exact: bool = True) -> None:
        super().__init__()
        if type(objective).scores is Objective.scores:
            backbone.asked = frozenset()  # only the logits are ranked
        if exact:
            backbone.skip_unused()
        for module in (*backbone.modules(), *objective.modules()):
            if parametrize.is_parametrized(module):  # weight norms would be computed again for every batch
                for name in list(cast(nn.ModuleDict, module.parametrizations)):
                    parametrize.remove_parametrizations(module, name)
        self.backbone, self.objective = backbone, objective
        self.eval().requires_grad_(False)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, region_features: Tensor, boxes: Tensor, region_mask: Tensor
    ) -> Tensor:
        """Scores (B, A); the arguments are those of `inputs_of`."""
        batch = VQABatch(input_ids[:, 0], input_ids, attention_mask, region_features, boxes, region_mask)
        return self.objective.scores(self.backbone(batch))


def inputs_of(batch: VQABatch) -> dict[str, Tensor]:
    """The arguments of a `Scorer`, by name; where the batch has no mask, the mask keeps everything.

    Returns:
        `input_ids` and `attention_mask` (B, T) int64, cut to the longest question; `region_features` (B, R, F) and
        `boxes` (B, R, 4) float32; `region_mask` (B, R) bool.
    """
    ids, mask = trim_padding(batch.input_ids, batch.attention_mask)
    regions = batch.widened().region_features
    assert ids is not None and regions is not None and batch.boxes is not None
    every = torch.ones(regions.shape[:2], dtype=torch.bool)
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids) if mask is None else mask,
        "region_features": regions,
        "boxes": batch.boxes,
        "region_mask": every if batch.region_mask is None else batch.region_mask,
    }
