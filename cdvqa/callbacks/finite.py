"""Stop before numbers that are not finite are saved."""

import math
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning import Callback
from torch import Tensor, nn

from cdvqa.callbacks.training_log import ends_step, logs_step
from cdvqa.distributed.processes import gather
from cdvqa.errors import Stopped


class FiniteCheck(Callback):
    """Stop the run at a loss or gradient norm that is not finite, before anything of the bad state is saved.

    On the CPU every step is looked at, just after it. On a GPU, which would have to be waited for, the number of the
    first such step stays there until a step is logged or something is about to be saved. The weights in memory may be
    bad by then; the checkpoint on disk is from before. With 16-mixed a norm that is not finite is usual:
    the gradient scaler skips that step.
    """

    def __init__(self) -> None:
        self._first = torch.tensor(math.inf)  # the first step that is not finite
        self._recent: list[tuple[int, Tensor, Tensor]] = []  # step, question ids and loss since the last look
        self._unclipped: list[Tensor] = []  # norm of the latest gradients that are not clipped

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: Any, optimizer: Any) -> None:
        """Keep the norm of the gradients that are not clipped; that of the others is computed for the clipping."""
        rest = pl_module.objective if trainer.gradient_clip_val else pl_module
        gradients = [parameter.grad for parameter in rest.parameters() if parameter.grad is not None]
        self._unclipped = [nn.utils.get_total_norm(gradients)] if gradients else []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        loss, stepped = pl_module.report["train/loss/total"], ends_step(trainer, batch_idx)
        step = trainer.global_step if stepped else trainer.global_step + 1
        watched = [loss]
        if stepped and getattr(trainer.precision_plugin, "scaler", None) is None:
            watched += [*self._unclipped, pl_module.report.get("train/gradient_norm", loss)]
        finite = torch.stack([value.isfinite() for value in watched]).all()
        self._first = torch.minimum(self._first.to(loss.device), torch.where(finite, math.inf, float(step)))
        self._recent.append((step, batch.question_id, loss))
        if logs_step(trainer, batch_idx) or (stepped and waits_for_nothing(loss)):
            self._look(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._look(trainer)

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        self._look(trainer)

    def _look(self, trainer: pl.Trainer) -> None:
        """Every process looks at the same moments, so all of them stop."""
        first = float(trainer.strategy.reduce(self._first.clone(), reduce_op="min")) if self._recent else math.inf
        of_step = [(ids.tolist(), math.isfinite(loss)) for step, ids, loss in self._recent if step == first]
        self._recent.clear()
        if math.isinf(first):
            return
        batches = gather(of_step)
        spoiled = [ids for ids, finite in batches if not finite]
        questions = [question for ids in spoiled or [ids for ids, _ in batches] for question in ids]
        if not trainer.is_global_zero:
            raise SystemExit(1)  # the first process reports
        some = ", ".join(map(str, questions[:5])) + (", …" if len(questions) > 5 else "")
        raise Stopped(
            f"step {first:.0f}: the {'loss' if spoiled else 'gradient norm'} is not finite ({len(questions)} "
            f"questions: {some}); lower --model.lr or look at their features"
        )


def waits_for_nothing(tensor: Tensor) -> bool:
    """Whether the tensor's value is available without waiting for a GPU."""
    return tensor.device.type == "cpu"
