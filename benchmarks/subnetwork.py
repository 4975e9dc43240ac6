"""Subnetworks: their files, their loading, and how fast they answer on one thread; LXMERT-base sizes, random weights.

`python -m benchmarks.subnetwork RUN` also measures what int8 costs a trained run in accuracy.
"""

import copy
import sys
from collections.abc import Callable
from functools import partial
from math import log2
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.mask_step import ANSWERS, random_batch
from benchmarks.record import Record, interleave, write
from cdvqa.backbones import Lxmert
from cdvqa.deploy.forms import evaluate, forms
from cdvqa.deploy.network import load
from cdvqa.inference.graph import trace, write_onnx
from cdvqa.inference.runtimes import Runtime, example, onnx_runtime, torch_runtime, with_sparse_rows
from cdvqa.inference.scorer import Scorer
from cdvqa.objectives import BCE
from cdvqa.runs.folder import Run
from cdvqa.sparsity import NetworkFile
from cdvqa.sparsity.files.write import Precision, write_network
from cdvqa.sparsity.patterns import patterned_masks
from cdvqa.sparsity.shrink import left_over, shrink

LEVELS = (0.3, 0.5, 0.7, 0.9)
BITS: dict[Precision, tuple[int, str]] = {"fp32": (32, "<= 1.02"), "fp16": (16, "<= 1.02"), "int8": (8, "<= 1.03")}
KINDS = ("torch fp32", "onnxruntime fp32", "onnxruntime int8")
Masks = dict[str, Tensor]


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = Lxmert(ANSWERS, pretrained=None)
    Scorer(model, BCE(), exact=False)  # the head's weights become plain, which a copy of the model needs
    with TemporaryDirectory() as folder:
        records = [*files(model, Path(folder)), *loading(model, Path(folder)), *latency(model, Path(folder))]
        if len(sys.argv) > 1:
            records += accuracy(Run(Path(sys.argv[1])), Path(folder))
    write("subnetwork", records, note="LXMERT-base sizes, random weights, 20 tokens, 36 regions, one thread.")


def matrices(model: Lxmert) -> dict[str, Tensor]:
    names = [name for group in model.matrices().values() for name in group]
    return {name: model.get_parameter(name).detach() for name in names}


def random_masks(weights: dict[str, Tensor], zeros: float) -> Masks:
    return {name: torch.rand(weight.shape) >= zeros for name, weight in weights.items()}


def files(model: Lxmert, folder: Path) -> list[Record]:
    """Bits that a masked weight takes, over the bound (1 - s) * bits + H(s); the worst of four levels."""
    weights, path, records = matrices(model), folder / "matrices.safetensors", []
    number = sum(weight.numel() for weight in weights.values())
    found: dict[Precision, list[tuple[float, float, float]]] = {dtype: [] for dtype in BITS}
    for zeros in LEVELS:
        masks = random_masks(weights, zeros)
        kept = {name: weight * masks[name] for name, weight in weights.items()}
        entropy = -zeros * log2(zeros) - (1 - zeros) * log2(1 - zeros)
        for dtype, (bits, _) in BITS.items():
            write_network(path, kept, masks, {}, dtype)
            taken, bound = 8 * path.stat().st_size / number, (1 - zeros) * bits + entropy
            found[dtype].append((taken / bound, taken, bound))
    for dtype, (_, goal) in BITS.items():
        _, taken, bound = max(found[dtype])
        note = ", ".join(f"{zeros:.0%}: {ratio:.3f}" for zeros, (ratio, *_) in zip(LEVELS, found[dtype], strict=True))
        name = f"file, {dtype}: bits a masked weight, worst of four levels"
        records.append(Record(name, taken, "bits", limit=bound, against="limit", goal=goal, note=note))
    path.unlink()
    return records


def loading(model: Lxmert, folder: Path) -> list[Record]:
    """Fill the allocated parameters of a model, from our file and from a dense one in safetensors."""
    dense, small = folder / "dense.safetensors", folder / "small.safetensors"
    target = {name: value.detach() for name, value in model.state_dict().items()}
    save_file({name: value.clone() for name, value in target.items()}, dense)

    def read_dense() -> None:
        with safe_open(dense, "pt") as file:
            for name, value in target.items():
                value.copy_(file.get_tensor(name))

    records = []
    for zeros in (0.5, 0.7):
        masks = random_masks(matrices(model), zeros)
        kept = {name: value * masks[name] if name in masks else value for name, value in target.items()}
        write_network(small, kept, masks, {})
        del kept
        times = interleave({"ours": partial(NetworkFile(small).fill, target), "dense": read_dense}, 5)
        name = f"loading, {zeros:.0%} zeros, fp32, warm cache"
        records.append(Record(name, times["ours"].median, "s", times["dense"].median, goal="<= 2"))
    dense.unlink()
    small.unlink()
    return records


def latency(model: Lxmert, folder: Path) -> list[Record]:
    """Questions a second on one thread, against the dense model in fp32 by torch."""
    runtimes: dict[str, Runtime] = {}
    for name, network, exact in (
        ("dense", model, False),
        ("50 % zeros", pruned(model, 0.5), True),
        ("structured 50 %", without_units(model), True),
    ):
        scorer = Scorer(copy.deepcopy(network), BCE(), exact)
        runtimes |= runtimes_of(name, scorer, folder)
    for zeros in (0.9, 0.95):
        rows = with_sparse_rows(Scorer(pruned(model, zeros), BCE()), zeros - 0.01)
        assert rows is not None
        runtimes[f"{zeros:.0%} zeros, sparse rows"] = torch_runtime(rows)
    return [record for batch, repeats in ((1, 9), (8, 7)) for record in rates(runtimes, batch, repeats)]


def rates(runtimes: dict[str, Runtime], batch: int, repeats: int) -> list[Record]:
    """The rows for batches of one size."""
    questions, dense = random_batch(batch), "dense, torch fp32"
    with torch.inference_mode():
        calls: dict[str, Callable[[], object]] = {name: partial(runs, questions) for name, runs in runtimes.items()}
        rate = {name: batch / times.median for name, times in interleave(calls, repeats).items()}
    halves = "structured 50 %, torch fp32", "structured 50 %, onnxruntime fp32"
    compared = [
        ("50 % zeros, onnxruntime int8", dense, {1: ">= 3.5", 8: ">= 3.3"}[batch]),
        ("dense, onnxruntime int8", dense, ""),
        ("dense, onnxruntime fp32", dense, ""),
        (max(halves, key=lambda name: rate[name]), dense, ">= 2"),
        ("structured 50 %, onnxruntime int8", dense, ">= 5.5"),
        *((f"structured 50 %, {kind}", f"dense, {kind}", ">= 1.6") for kind in KINDS),
        ("95% zeros, sparse rows", dense, ">= 2"),
        ("90% zeros, sparse rows", dense, ""),
    ]
    return [
        Record(f"{ours} against {theirs}, batch {batch}", rate[ours], "questions/s", rate[theirs], goal=goal)
        for ours, theirs, goal in compared
    ]


def runtimes_of(name: str, scorer: Scorer, folder: Path) -> dict[str, Runtime]:
    """The scorer by torch, and by onnxruntime in fp32 and int8."""
    program, found = trace(scorer, example(scorer)), {f"{name}, torch fp32": torch_runtime(scorer)}
    for dtype in ("fp32", "int8"):
        path = folder / "graph.onnx"
        write_onnx(program, path, dtype)
        found[f"{name}, onnxruntime {dtype}"] = onnx_runtime(path, 1)
        path.unlink()
    return found


@torch.no_grad()
def pruned(model: Lxmert, zeros: float) -> Lxmert:
    """A copy with zeros at random."""
    network = copy.deepcopy(model)
    for name, mask in random_masks(matrices(network), zeros).items():
        network.get_parameter(name).mul_(mask)
    return network


def without_units(model: Lxmert) -> Lxmert:
    """A copy without half of the heads and neurons."""
    network, weights = copy.deepcopy(model), matrices(model)
    importance = {name: torch.rand(weight.shape) for name, weight in weights.items()}
    masks = patterned_masks("structured", importance, weights, dict.fromkeys(weights, 0.5), network.structures())
    shrink(network, network.structures(), left_over(network.structures(), masks))
    return network


def accuracy(run: Run, folder: Path) -> list[Record]:
    """Points that int8 loses on the test splits of a trained run: cdvqa's file by torch, and onnxruntime."""
    network = load(run.folder)
    network.data.setup("test")
    small = folder / "subnetwork.safetensors"
    small.write_bytes(run.result().read_bytes())
    small.with_name("config.yaml").write_bytes(run.config.read_bytes())
    made: dict[str, Callable[..., list[str]]] = {form.name: form.make() for form in forms(run, small)}
    scores, _ = evaluate(made, network.data, None)
    lost = [
        (split, dense - int8)
        for split, dense, int8 in zip(
            network.data.splits, scores["dense fp32, torch"], scores["subnetwork int8, onnxruntime"], strict=True
        )
    ]
    name = f"accuracy that int8 loses on {network.data.name}"
    return [Record(f"{name}, {split}", points, "points", against=None, goal="<= 0.5") for split, points in lost]


if __name__ == "__main__":
    main()
