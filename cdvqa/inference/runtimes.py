"""Runtimes that compute a network's scores: torch, compiled torch, sparse rows, onnxruntime; and the fastest here."""

import copy
import hashlib
import platform
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from cdvqa.data.batch import VQABatch
from cdvqa.errors import InputError
from cdvqa.files import read_json, write_json
from cdvqa.inference.graph import GraphType, onnx_session, openvino_session, trace, write_onnx
from cdvqa.inference.scorer import Scorer, inputs_of
from cdvqa.inference.timing import latencies

Runtime = Callable[[VQABatch], Tensor]
RuntimeName = Literal["torch", "auto"]
RuntimeType = Literal["fp32", "int8"]
SPARSE = 0.85  # share of zeros of a matrix from which sparse rows are tried; from 90 % they are faster
CHECKED = 256  # questions on which a runtime must give torch's answers


def torch_runtime(scorer: Callable[..., Tensor]) -> Runtime:
    """Scores (B, A) in fp32 by torch, as `test` computes them, from a `Scorer` or a compiled one."""
    return lambda batch: scorer(**inputs_of(batch))


def onnx_runtime(path: Path, threads: int) -> Runtime:
    """Scores by onnxruntime, from a file that `write_onnx` wrote."""
    session = onnx_session(path, threads)
    return lambda batch: session(inputs_of(batch))


def openvino_runtime(path: Path, threads: int) -> Runtime:
    """Scores by OpenVINO, from a file that `write_openvino` wrote."""
    session = openvino_session(path, threads)
    return lambda batch: session(inputs_of(batch))


def compiled_runtime(scorer: Scorer) -> Runtime:
    """Scores by torch.compile, for any number of questions and word pieces."""
    return torch_runtime(torch.compile(scorer, dynamic=True))


class SparseRows(nn.Module):
    """A linear layer whose weight is stored as compressed sparse rows (CSR).

    Args:
        layer: the layer that it replaces.
    """

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns that CSR is in beta
            self.weight = layer.weight.detach().to_sparse_csr()
        self.bias = layer.bias

    def forward(self, states: Tensor) -> Tensor:
        """(…, in) → (…, out)."""
        product: Tensor = (self.weight @ states.flatten(0, -2).t()).t().unflatten(0, states.shape[:-1])
        return product if self.bias is None else product + self.bias


def with_sparse_rows(scorer: Scorer, zeros: float = SPARSE) -> Scorer | None:
    """A copy whose linear layers with at least this share of zeros are `SparseRows`; None if there is no such layer."""
    sparse, replaced = copy.deepcopy(scorer), 0
    for module in list(sparse.modules()):
        for name, layer in list(module.named_children()):
            if isinstance(layer, nn.Linear) and (layer.weight == 0).float().mean() >= zeros:
                setattr(module, name, SparseRows(layer))
                replaced += 1
    return sparse if replaced else None


def fastest(scorer: Scorer, dtype: RuntimeType, network: Path, questions: Sequence[VQABatch]) -> tuple[Runtime, str]:
    """The fastest runtime on this machine, among those that give torch's answers.

    Times and the graph are stored in `runtimes/` beside the network, by machine and network.

    Args:
        scorer: of the network, on the CPU.
        dtype: fp32; int8 always takes onnxruntime, and its answers are not checked.
        network: the network's file.
        questions: batches; the first is timed, and all are used to check answers.

    Returns:
        The runtime, and one line that says which was chosen and why.

    Raises:
        InputError: int8 without onnxruntime, or for a backbone that cannot be written as a graph.
    """
    threads, size = torch.get_num_threads(), len(questions[0])
    folder = network.parent / "runtimes" / digest(network)
    makers = candidates(scorer, dtype, folder, threads)
    if dtype == "int8":
        return makers["onnxruntime int8"](), "onnxruntime int8, as --dtype asks; its answers may differ"
    stored = folder / f"{machine()}-{threads}-threads.json"
    times: dict[str, dict[str, float]] = read_json(stored) if stored.is_file() else {}
    known = times.get(str(size), {})
    if not known or not known.keys() <= makers.keys():
        made = {name: runtime for name, make in makers.items() if (runtime := equal(make, scorer, questions))}
        known = {name: taken[0] for name, taken in latencies(made, questions[:1]).items()}
        write_json(stored, times | {str(size): known})
    best = min(known, key=lambda name: known[name])
    listed = ", ".join(f"{name} {milliseconds:.1f}" for name, milliseconds in known.items())
    return makers[best](), f"{best} is fastest here for {size} questions (ms: {listed})"


def candidates(scorer: Scorer, dtype: RuntimeType, folder: Path, threads: int) -> dict[str, Callable[[], Runtime]]:
    """Functions that make the possible runtimes, by name; calling one may take long."""

    def by_onnx(dtype: GraphType) -> Runtime:
        path = folder / f"{dtype}.onnx"
        if not path.is_file():
            write_onnx(trace(scorer, example(scorer)), path, dtype)
        return onnx_runtime(path, threads)

    if dtype == "int8":
        return {"onnxruntime int8": partial(by_onnx, "int8")}
    found: dict[str, Callable[[], Runtime]] = {
        "torch": partial(torch_runtime, scorer),
        "compiled": partial(compiled_runtime, scorer),
    }
    if (sparse := with_sparse_rows(scorer)) is not None:
        found["sparse rows"] = partial(torch_runtime, sparse)
    if all(find_spec(name) for name in ("onnxruntime", "onnxscript")):
        found["onnxruntime"] = partial(by_onnx, "fp32")
    return found


def equal(make: Callable[[], Runtime], scorer: Scorer, questions: Sequence[VQABatch]) -> Runtime | None:
    """The runtime if it can be made on this machine and all of its answers are torch's; else None."""
    expected = torch_runtime(scorer)
    try:
        runtime = make()
        with torch.inference_mode():
            same = all(torch.equal(runtime(batch).argmax(1), expected(batch).argmax(1)) for batch in questions)
    except InputError:
        return None
    except Exception as error:  # compilers behind torch raise exceptions of many kinds
        if "compil" not in type(error).__module__ + str(error).lower():
            raise
        return None
    return runtime if same else None


def example(scorer: Scorer) -> dict[str, Tensor]:
    """Inputs to trace a network with: two questions of three words about four regions."""
    width = scorer.backbone.description["visual_feat_dim"]
    assert isinstance(width, int)
    ids, regions = torch.ones(2, 3, dtype=torch.int64), torch.rand(2, 4, width)
    return inputs_of(VQABatch(ids[:, 0], ids, region_features=regions, boxes=torch.rand(2, 4, 4)))


def digest(network: Path) -> str:
    """The first 8 digits of the file's SHA-256."""
    with network.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:8]


def machine() -> str:
    """A name for this machine that changes with its processor."""
    try:
        processor = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if "flags" in line)
    except (OSError, StopIteration):
        processor = platform.processor()
    return f"{platform.node()}-{hashlib.sha256(processor.encode()).hexdigest()[:6]}"
