"""Time of a step and of a reset for LXMERT's layers at several widths, and what a second process brings.

Every model or pair of models lives in processes of its own, one thread each; they step in turn.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.mask_step import ANSWERS, mask, random_batch
from benchmarks.record import Record, interleave, write
from cdvqa.backbones import Lxmert
from cdvqa.distributed.gradients import compress
from cdvqa.objectives import BCE
from cdvqa.sparsity import binary_masks, reset_thresholds
from cdvqa.stages.optimisation import make_optimizer

WIDTHS = (192, 384, 576, 768)  # the last is LXMERT-base
PAIR_WIDTH = 384
BATCHES = (8, 32)
Exchange = Literal["none", "fp32", "bf16"]
NOTE = (
    "LXMERT's 9 + 5 + 5 layers with 12 heads at several widths, random weights, 20 tokens, 36 regions, 70 % zeros, "
    "clip 1.0, fused AdamW, medians. Two processes on one machine exchange gradients by gloo and share the memory, so "
    "the figures say little about two machines."
)


@dataclass(frozen=True)
class Arm:
    """A model, or one that two processes train."""

    width: int
    exchange: Exchange = "none"

    @property
    def processes(self) -> int:
        return 1 if self.exchange == "none" else 2


Ask = Callable[[int], None]
"""Makes one optimiser step with so many questions a process; 0 resets the thresholds in its place."""


def main() -> None:
    write("scaling", [*growth(), *second_process()], NOTE)


def growth() -> Iterator[Record]:
    """Step and reset against the number of weights, in turn."""
    with ExitStack() as stack:
        entered = [stack.enter_context(running(Arm(width))) for width in WIDTHS]
        functions = {("step", weights): partial(ask, BATCHES[0]) for ask, weights in entered}
        functions |= {("reset", weights): partial(ask, 0) for ask, weights in entered}
        times = interleave({f"{what} {weights}": function for (what, weights), function in functions.items()}, 3)
    for _, weights in entered:
        step, reset = (times[f"{what} {weights}"].median for what in ("step", "reset"))
        size = f"{weights / 1e6:.1f} M masked weights"
        yield Record(f"mask step, {size}, B = {BATCHES[0]}", step, "s", note=f"{1e9 * step / weights:.1f} ns a weight")
        note = (
            f"{1e9 * reset / weights:.1f} ns a weight; against the step: at t_m = 100 a ratio of 1 is 1 % of training"
        )
        yield Record(f"reset of the thresholds, {size}", reset, "s", step, goal="<= 1", note=note)


def second_process() -> Iterator[Record]:
    """Two processes against one, the same number of questions in each."""
    with ExitStack() as stack:
        exchanges: tuple[Exchange, ...] = ("none", "fp32", "bf16")
        entered = {kind: stack.enter_context(running(Arm(PAIR_WIDTH, kind))) for kind in exchanges}
        for batch in BATCHES:
            times = interleave({kind: partial(ask, batch) for kind, (ask, _) in entered.items()}, 5)
            alone, weights = times["none"].median, entered["none"][1]
            for kind, size in (("fp32", 4), ("bf16", 2)):
                pair = times[kind].median
                note = f"efficiency {alone / pair:.2f}; {size * weights / 1e6:.0f} MB of score gradients a step"
                name = f"2 processes, B = {batch} each, {kind} exchange, {weights / 1e6:.1f} M masked weights"
                yield Record(name, pair, "s", alone, note=note)


@contextmanager
def running(arm: Arm) -> Iterator[tuple[Ask, int]]:
    """An arm's processes, ready to step, and its number of trained scores."""
    context, pipes, processes = get_context("spawn"), [], []
    with tempfile.TemporaryDirectory() as folder:
        for rank in range(arm.processes):
            here, there = context.Pipe()
            arguments = (arm, rank, Path(folder) / "rendezvous", there)
            processes.append(context.Process(target=serve, args=arguments, daemon=True))
            processes[-1].start()
            there.close()
            pipes.append(here)
        weights = [pipe.recv() for pipe in pipes]

        def ask(batch: int) -> None:
            for pipe in pipes:
                pipe.send(batch)
            for pipe in pipes:
                pipe.recv()

        yield ask, weights[0]
        for pipe in pipes:
            pipe.send(None)
        for process in processes:
            process.join()


def serve(arm: Arm, rank: int, rendezvous: Path, connection: Connection) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = {"hidden_size": arm.width, "intermediate_size": 4 * arm.width}
    model, objective = Lxmert(ANSWERS, pretrained=None, config=config), BCE()
    batches = {size: random_batch(size) for size in (1, *BATCHES)}
    mask(model)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = make_optimizer("adamw", [{"params": trained, "lr": 5e-5, "weight_decay": 0.0}])
    network: nn.Module = model
    if arm.exchange != "none":
        distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
        model._ddp_params_and_buffers_to_ignore = [name for name, _ in model.named_buffers()]  # type: ignore[assignment]
        network = wrapped = DistributedDataParallel(model)
        if arm.exchange == "bf16":
            wrapped.register_comm_hook(None, compress)

    def step(batch: int) -> None:
        data = batches[batch]
        objective(network(data).logits, data.soft_target).total.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    step(1)
    reset_thresholds(model)  # from now on the forward pass resolves ties
    step(1)
    connection.send(sum(mask.score.numel() for mask in binary_masks(model).values()))
    while (batch := connection.recv()) is not None:
        if batch:
            step(batch)
        else:
            reset_thresholds(model)
        connection.send(None)
    if arm.exchange != "none":
        distributed.destroy_process_group()


if __name__ == "__main__":
    main()
