"""Optimiser and schedule of every stage."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version
from torch.optim import Adam, Adamax, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from cdvqa.presets import OptimizerName, Schedule


class AuthorsAdamW(Optimizer):
    """The AdamW of the authors' stage 2: p ← p − lr · √(1−β₂ᵗ)/(1−β₁ᵗ) · m/(√v + eps), decay after the step.

    torch's AdamW divides eps by √(1−β₂ᵗ) as well; the two differ for gradients of about eps in the first steps.
    """

    def __init__(self, params: Any, lr: float = 5e-5, weight_decay: float = 0.0, eps: float = 1e-8) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "eps": eps, "betas": (0.9, 0.999)})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def _update(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state, (beta1, beta2) = self.state[parameter], group["betas"]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["mean"], state["square"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] += 1
        step = state["step"].item()
        state["mean"].lerp_(parameter.grad, 1 - beta1)
        state["square"].mul_(beta2).addcmul_(parameter.grad, parameter.grad, value=1 - beta2)
        rate = group["lr"] * (1 - beta2**step) ** 0.5 / (1 - beta1**step)
        parameter.addcdiv_(state["mean"], state["square"].sqrt().add_(group["eps"]), value=-rate)
        if group["weight_decay"]:
            parameter.mul_(1 - group["lr"] * group["weight_decay"])


def make_optimizer(name: OptimizerName, groups: list[dict[str, Any]]) -> Optimizer:
    """Build the optimiser called `name`; β (0.9, 0.999) and eps 1e-8 throughout. Each step frees the gradients.

    Args:
        name: `adamw`, `adam`, `adamax` or `authors_adamw`.
        groups: each with its params, lr and weight_decay.
    """
    if name == "authors_adamw":
        optimizer: Optimizer = AuthorsAdamW(groups)
    elif name == "adamax":
        optimizer = Adamax(groups)
    else:
        kinds = {"adamw": AdamW, "adam": Adam}
        optimizer = kinds[name](groups, fused=True)
        # A fused step could unscale fp16 gradients itself, but clipping comes first and wants them unscaled.
        optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
    optimizer.register_step_post_hook(_finish)
    return optimizer


def _finish(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    """Free the gradients, whose memory the masks reuse; mark parameters as changed, which fused steps do not do."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    changed = [parameter for parameter in parameters if parameter.grad is not None]
    optimizer.zero_grad()
    for parameter in changed:
        increment_version(parameter)


def warmup_steps(warmup: float | int, total: int) -> int:
    """Optimiser steps of warm-up: an int is taken as it is, a float is a share of `total`."""
    return warmup if isinstance(warmup, int) else int(warmup * total)


def linear_schedule(optimizer: Optimizer, warmup: int, total: int) -> LambdaLR:
    """Rate k/W for k < W, then (T − k)/(T − W) down to 0; stepped after every optimiser step."""

    def multiplier(step: int) -> float:
        if step < warmup:
            return step / warmup
        return max(0.0, (total - step) / max(1, total - warmup))

    return LambdaLR(optimizer, multiplier)


def epoch_schedule(name: Schedule, optimizer: Optimizer, total: int, per_epoch: int) -> LambdaLR:
    """The schedule called `name`, whose rate depends on the epoch; stepped after every optimiser step.

    Args:
        name: `epoch_cosine` or `epoch_steps`.
        optimizer: its groups may have rates of their own.
        total: optimiser steps.
        per_epoch: how many of them make up an epoch.
    """
    if name == "epoch_cosine":
        return epoch_cosine_schedule(optimizer, total, per_epoch)
    return epoch_steps_schedule(optimizer, per_epoch)


def epoch_cosine_schedule(optimizer: Optimizer, total: int, per_epoch: int) -> LambdaLR:
    """The schedule of the authors' mPLUG: a rate for each epoch, on a cosine from the group's rate down to 1e-6.

    In the first epoch the rate goes from 1e-5 to the group's in four steps, one every 100 optimiser steps; a
    rate below 1e-5, as the vision encoder has, is thus approached from above.

    Args:
        optimizer: its groups may have rates of their own.
        total: optimiser steps.
        per_epoch: how many of them make up an epoch.
    """
    epochs = math.ceil(total / per_epoch) if total else 1

    def multiplier(rate: float) -> Callable[[int], float]:
        def at(step: int) -> float:
            epoch = min(step // per_epoch, epochs)
            if epoch == 0:
                return (1e-5 + min(step // 100, 4) * (rate - 1e-5) / 4) / rate
            return (1e-6 + (rate - 1e-6) * (1 + math.cos(math.pi * epoch / epochs)) / 2) / rate

        return at

    return LambdaLR(optimizer, [multiplier(group["lr"]) for group in optimizer.param_groups])


def epoch_steps_schedule(optimizer: Optimizer, per_epoch: int) -> LambdaLR:
    """The schedule of S-MRL's authors, whose rate is a multiple of the group's in each epoch, counted from 0.

    It rises evenly from 0.5 in epoch 0 to 2 in epoch 6, stays there, and becomes a quarter of what it was in each of
    the epochs 14, 16, 18, 20 and 22. Source: `BanOptimizer` in Cadene/block.bootstrap.pytorch with the options of
    yuleiniu/cfvqa.

    Args:
        optimizer: its groups may have rates of their own.
        per_epoch: optimiser steps of an epoch.
    """

    def multiplier(step: int) -> float:
        epoch = step // per_epoch
        quarters = min(max(0, (epoch - 12) // 2), 5)
        return (0.5 + 1.5 * min(epoch / 6, 1.0)) * 0.25**quarters

    return LambdaLR(optimizer, multiplier)
