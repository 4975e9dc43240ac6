"""Stage 3: fine-tune the subnetwork's weights further."""

from dataclasses import fields
from typing import Any, Optional

import torch

from cdvqa.errors import InputError
from cdvqa.sparsity import NetworkFile, Sparsity, attach_fixed_masks
from cdvqa.stages.stage import VQAStage


class FurtherFineTune(VQAStage):
    """Stage 3. Trains every weight that the mask kept; zeros stay zero.

    Args:
        sparsity: which stage-2 run to start from, by any of its sparsity settings; null where there is only one.
    """

    stage = 3

    def __init__(self, *args: Any, sparsity: Optional[dict[str, Any]] = None, **kwargs: Any) -> None:
        known, asked = [field.name for field in fields(Sparsity)], dict(sparsity or {})
        if unknown := sorted(asked.keys() - known):
            raise InputError(f"--model.sparsity.{unknown[0]}: unknown; a subnetwork has {', '.join(known)}")
        if asked.get("pattern") == 124:  # 2:4 without quotes, which YAML reads in base 60
            asked["pattern"] = "2:4"
        self.asked_sparsity = asked or None
        super().__init__(*args, **kwargs)

    def shape_model(self, network: NetworkFile | None) -> None:
        if network is not None and not network.shapes:
            raise InputError(f"{self.start}: this network has no masks; stage 3 starts from a stage-2 run")
        attach_fixed_masks(self.backbone, network.masks if network is not None else self._unknown_masks())

    def _unknown_masks(self) -> dict[str, torch.Tensor]:
        """Masks of the right shape, for the checkpoint that is about to be restored to fill in."""
        parameters = dict(self.backbone.named_parameters())
        names = [name for group in self.backbone.matrices().values() for name in group]
        return {name: torch.ones_like(parameters[name], dtype=torch.bool) for name in names}
