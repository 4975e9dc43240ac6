"""How processes exchange gradients."""

from typing import Any

import torch
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor
from torch.distributed import GradBucket  # type: ignore[attr-defined]  # torch checks a hook for this annotation
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.nn.parallel import DistributedDataParallel


class Bf16Exchange(DDPStrategy):
    """DDP that sends gradients in bf16, half the bytes; they are fp32 again where they are used.

    Registered here and not by `ddp_comm_hook`, which Lightning ignores without a GPU.
    """

    def configure_ddp(self) -> None:
        super().configure_ddp()
        assert isinstance(self.model, DistributedDataParallel)
        self.model.register_comm_hook(None, compress)


def compress(state: Any, bucket: GradBucket) -> torch.futures.Future[Tensor]:
    """torch's `bf16_compress_hook` under another name: torch restricts it to NCCL by name, but gloo sums bf16 too."""
    return bf16_compress_hook(state, bucket)
