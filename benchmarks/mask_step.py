"""One optimiser step of mask training against one of dense fine-tuning: LXMERT-base sizes, random weights.

Each arm lives in a process of its own, so that none inherits another's memory; they step in turn.
"""

import resource
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection

import torch
from torch import nn

from benchmarks.record import Record, interleave, write
from cdvqa.backbones import Lxmert
from cdvqa.data.batch import VQABatch
from cdvqa.objectives import BCE
from cdvqa.sparsity import attach_masks, reset_thresholds
from cdvqa.stages.optimisation import make_optimizer
from tests.sparsity.reference import use_plain_masks

ANSWERS, TOKENS, REGIONS = 2274, 20, 36
GIB = 2**20  # in the kernel's unit, KiB
ARMS = ("dense", "mask", "plain")


def main() -> None:
    records = []
    with ExitStack() as stack:
        ask = {kind: stack.enter_context(arm(kind)) for kind in ARMS}
        for batch, threads, repeats in ((8, 1, 7), (8, 2, 7), (16, 2, 5)):
            times = interleave({kind: partial(ask[kind], batch, threads) for kind in ARMS}, repeats)
            dense, mask, plain = (times[kind] for kind in ARMS)
            name = f"B = {batch}, {threads} thread" + "s" * (threads > 1)
            note = f"fastest against fastest {mask.best / dense.best:.3f}"
            records += [
                Record(f"mask step, {name}", mask.median, "s", dense.median, goal="<= 1.05", note=note),
                Record(f"plain implementation, {name}", plain.median, "s", dense.median),
            ]
    for batch, goal in ((8, "<= 1.25"), (32, "<= 1.35")):
        peaks = {}
        for kind in ARMS:  # one at a time
            with arm(kind) as step:
                peaks[kind] = [step(batch, 2) for _ in range(2)][-1]
        records += [
            Record(f"peak memory of mask training, B = {batch}", peaks["mask"], "GiB", peaks["dense"], goal=goal),
            Record(f"peak memory, plain implementation, B = {batch}", peaks["plain"], "GiB", peaks["dense"]),
        ]
    write("mask_step", records, note="LXMERT-base sizes, random weights, 20 tokens, 36 regions, clip 1.0, fused AdamW.")


@contextmanager
def arm(kind: str) -> Iterator[Callable[[int, int], float]]:
    """A process that trains one model: a call (batch size, threads) makes one step and returns the peak memory, GiB."""
    here, there = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=serve, args=(kind, there), daemon=True)
    process.start()
    there.close()

    def step(batch: int, threads: int) -> float:
        here.send((batch, threads))
        return float(here.recv())

    here.recv()  # ready
    yield step
    here.send(None)
    process.join()


def serve(kind: str, connection: Connection) -> None:
    torch.manual_seed(0)
    model, objective = Lxmert(ANSWERS, pretrained=None), BCE()
    batches = {size: random_batch(size) for size in (1, 8, 16, 32)}
    if kind == "dense":
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(model.parameters(), 5e-5, weight_decay=0.0, fused=True)
    else:
        mask(model)
        if kind == "plain":
            use_plain_masks(model)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = make_optimizer("adamw", [{"params": trained, "lr": 5e-5, "weight_decay": 0.0}])

    def step(data: VQABatch) -> None:
        optimizer.zero_grad()
        objective(model(data).logits, data.soft_target).total.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    step(batches[1])
    if kind != "dense":
        reset_thresholds(model)  # from now on the forward pass resolves ties
    connection.send("ready")
    while asked := connection.recv():
        batch, threads = asked
        torch.set_num_threads(threads)
        step(batches[batch])
        connection.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / GIB)


def mask(model: Lxmert) -> None:
    model.requires_grad_(False)
    model.classifier.requires_grad_(True)
    groups = model.matrices()
    attach_masks(model, groups, dict.fromkeys(groups, 0.7), dead=model.dead())


def random_batch(size: int) -> VQABatch:
    return VQABatch(
        question_id=torch.arange(size),
        input_ids=torch.randint(1000, 30_000, (size, TOKENS)),
        region_features=torch.rand(size, REGIONS, 2048),
        boxes=torch.rand(size, REGIONS, 4),
        soft_target=(torch.rand(size, ANSWERS) > 0.999).float(),
    )


if __name__ == "__main__":
    main()
