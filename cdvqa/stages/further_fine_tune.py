"""Stage 3: fine-tune the subnetwork's weights further."""

from typing import Any

import torch

from cdvqa.errors import InputError
from cdvqa.sparsity import Sparsity, Subnetwork, attach_fixed_masks
from cdvqa.stages.stage import VQAStage


class FurtherFineTune(VQAStage):
    """Stage 3. Trains every weight that the mask kept; zeros stay zero.

    Args:
        sparsity: which stage-2 run to start from: its method, assignment and share of zeros.
    """

    stage = 3

    def __init__(self, *args: Any, sparsity: Sparsity = Sparsity(), **kwargs: Any) -> None:  # noqa: B008 (immutable use)
        self.sparsity = sparsity
        super().__init__(*args, **kwargs)
        self.sparsity = sparsity.settled(self.counts)

    def shape_model(self, network: Subnetwork | None) -> None:
        if network is not None and not network.masks:
            raise InputError(f"{self.start}: this network has no masks; stage 3 starts from a stage-2 run")
        attach_fixed_masks(self.backbone, network.masks if network is not None else self._unknown_masks())

    def _unknown_masks(self) -> dict[str, torch.Tensor]:
        """Masks of the right shape, for the checkpoint that is about to be restored to fill in."""
        parameters = dict(self.backbone.named_parameters())
        names = [name for group in self.backbone.matrices().values() for name in group]
        return {name: torch.ones_like(parameters[name], dtype=torch.bool) for name in names}
