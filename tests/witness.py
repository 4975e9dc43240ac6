"""A callback that tells what each process holds in the end: `--trainer.callbacks+=tests.witness.Witness`."""

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning import Callback


class Witness(Callback):
    """Writes `rank<k>.pt`: parameters and buffers, the first gradient, generator, and whether DDP sends buffers."""

    gradient: torch.Tensor | None = None

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: Any, optimizer: Any) -> None:
        if self.gradient is None:
            self.gradient = torch.cat([p.grad.flatten() for p in pl_module.parameters() if p.grad is not None])

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        state = {name: tensor.detach().clone() for name, tensor in pl_module.state_dict().items()}
        wrapped = trainer.strategy.model
        sends = wrapped.will_sync_module_buffers() if trainer.world_size > 1 else False
        seen = {
            "state": state,
            "gradient": self.gradient,
            "generator": torch.get_rng_state(),
            "sends_buffers": bool(sends),
        }
        torch.save(seen, f"rank{trainer.global_rank}.pt")


class Talk(Callback):
    """Prints a line at the end of each epoch, as the callbacks of a user may."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        print("said at the end of the epoch")
