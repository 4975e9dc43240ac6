"""One network in several files and runtimes: bytes, accuracy, latency and memory of each."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import orjson
import torch
from tabulate import tabulate
from torch import Tensor

from cdvqa.data import VQADataModule
from cdvqa.data.batch import VQABatch
from cdvqa.deploy.network import Network, load
from cdvqa.inference.graph import trace, write_onnx, write_openvino
from cdvqa.inference.runtimes import example, onnx_runtime, openvino_runtime
from cdvqa.inference.timing import instructions, latencies, peak_memory
from cdvqa.metrics import SplitAccuracy
from cdvqa.runs.folder import Run

BATCHES = (1, 8, 64)
Answering = Callable[[VQABatch], list[str]]


class Form(NamedTuple):
    """A file of a network with a runtime.

    Attributes:
        name: names both.
        size: size of the file in bytes.
        make: makes the function that answers a batch; it can be pickled.
    """

    name: str
    size: int
    make: Callable[[], Answering]


def metadata_of(network: Network) -> dict[str, str]:
    """The metadata of a graph, as text: the answer of each score, the text format, and the tokeniser's digest."""
    answers = orjson.dumps(network.metadata["answers"]).decode()
    return {"answers": answers} | {name: str(network.metadata[name]) for name in ("text_format", "tokenizer")}


def answers_of_torch(source: Path, exact: bool) -> Answering:
    """A function that answers a batch by torch; `source` and `exact` as in `load`."""
    return load(source, exact).answer


def answers_of_graph(kind: str, path: Path, answers: Sequence[str], threads: int) -> Answering:
    """A function that answers a batch by onnxruntime (`kind` onnx) or OpenVINO (openvino)."""
    runtime = {"onnx": onnx_runtime, "openvino": openvino_runtime}[kind](path, threads)
    return lambda batch: [answers[index] for index in runtime(batch).argmax(1).tolist()]


def forms(source: Run, small_file: Path) -> list[Form]:
    """The forms that this machine can run, of the network at its full size and without what no answer needs.

    Args:
        source: the finished run.
        small_file: cdvqa's file without what no answer needs; its folder holds config.yaml, and gets the graphs.
    """
    network, threads = load(source.folder, exact=False), torch.get_num_threads()
    parameters = (*network.backbone.parameters(), *network.objective.shipped())
    size = 4 * sum(parameter.numel() for parameter in parameters)
    dense = Form("dense fp32, torch", size, partial(answers_of_torch, source.folder, False))
    small = Form(f"{small_file.stem}, torch", small_file.stat().st_size, partial(answers_of_torch, small_file, True))
    if network.scorer is None or not all(find_spec(name) for name in ("onnxruntime", "onnxscript")):
        return [dense, small]
    answers, found = network.metadata["answers"], {}
    for name, kept in (("dense", network), ("subnetwork", load(source.folder))):
        assert kept.scorer is not None
        program = trace(kept.scorer, example(kept.scorer))
        for dtype in ("fp32", "int8"):
            path = small_file.with_name(f"{name}-{dtype}.onnx")
            write_onnx(program, path, dtype)
            make = partial(answers_of_graph, "onnx", path, answers, threads)
            found[path.stem] = Form(f"{name} {dtype}, onnxruntime", path.stat().st_size, make)
    graphs = [found[name] for name in ("dense-int8", "subnetwork-fp32", "subnetwork-int8")]
    if find_spec("openvino"):
        path = small_file.with_name("subnetwork.xml")
        write_openvino(small_file.with_name("subnetwork-fp32.onnx"), path)
        make = partial(answers_of_graph, "openvino", path, answers, threads)
        graphs.append(Form("subnetwork fp32, openvino", path.with_suffix(".bin").stat().st_size, make))
    return [dense, graphs[0], small, *graphs[1:]]


def table(source: Run, save: Callable[[Path], object], dtype: str, questions: int | None) -> str:
    """Markdown table with a row for each form: accuracies on the test splits, latencies and peak memory, measured now.

    Args:
        source: the finished run.
        save: writes its network in cdvqa's own format to a path.
        dtype: precision in which `save` writes.
        questions: number of questions of each test split for accuracy; None: all.
    """
    data = load(source.folder).data
    batches = test_batches(data, BATCHES)
    with TemporaryDirectory() as temporary:
        small = Path(temporary) / f"subnetwork {dtype}.safetensors"
        shutil.copy(source.config, small.with_name("config.yaml"))
        save(small)
        found = forms(source, small)
        answering = {form.name: form.make() for form in found}
        taken = latencies(answering, batches)
        memory = {form.name: peak_memory(form.make, batches) for form in found}
    accuracy, same = evaluate(answering, data, questions)
    rows = [
        [
            form.name,
            f"{form.size / 1e6:,.2f}",
            f"{form.size / found[0].size:.3f}",
            *(f"{value:.2f}" for value in accuracy[form.name]),
            f"{same[form.name]:.2%}",
            *(f"{value:.1f}" for value in taken[form.name]),
            *(f"{value / 1e6:,.0f}" for value in memory[form.name] or ()),
        ]
        for form in found
    ]
    heads = ["network, runtime", "MB", "of dense", *data.splits, "same answers"]
    heads += [f"ms, batch {number}" for number in BATCHES] + [f"peak MB, batch {number}" for number in BATCHES]
    threads, processor = torch.get_num_threads(), ", ".join(instructions()) or "unknown"
    return (
        f"{tabulate(rows, heads, 'github', disable_numparse=True, colalign=['left'] + ['right'] * (len(rows[0]) - 1))}"
        f"\n\nMeasured now, {threads} thread{'s' * (threads > 1)}; instructions of the processor: {processor}. "
        "Latencies are medians of interleaved repeats; peak memory is beyond a process that has only its libraries."
    )


def test_batches(data: VQADataModule, numbers: Sequence[int]) -> list[VQABatch]:
    """Batches of the first questions of the last test split.

    Args:
        data: this sets it up for the test, with batches of the last number.
        numbers: questions in each batch, ascending.

    Raises:
        InputError: the data are absent.
    """
    data.setup("test")
    data.eval_batch_size = numbers[-1]
    batch = next(iter(data.test_dataloader()[-1]))
    return [first(batch, number) for number in numbers]


def evaluate(
    answering: Mapping[str, Answering], data: VQADataModule, questions: int | None
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Accuracy in percent of each form on each test split, and the share of its answers that equal the first form's.

    Args:
        answering: functions that answer a batch, by the form's name.
        data: set up for the test.
        questions: number of questions of each split, the first ones; None: all.
    """
    accuracy: dict[str, list[float]] = {name: [] for name in answering}
    same: dict[str, list[bool]] = {name: [] for name in answering}
    for loader in data.test_dataloader():
        scores = {name: SplitAccuracy(data.question_types, data.answer_types) for name in answering}
        left = len(loader.dataset) if questions is None else questions
        for batch in loader:
            batch, left = first(batch, left), left - len(batch)
            reference: list[str] | None = None
            for name, answer in answering.items():
                with torch.inference_mode():
                    answers = answer(batch)
                reference = reference or answers
                scores[name].update(batch, answers)
                same[name] += [one == other for one, other in zip(answers, reference, strict=True)]
            if left <= 0:
                break
        for name in answering:
            accuracy[name].append(scores[name].results("test")["test"]["all"])
    return accuracy, {name: sum(equal) / len(equal) for name, equal in same.items()}


def first(batch: VQABatch, number: int) -> VQABatch:
    """The first questions of a batch."""
    kept: dict[str, Any] = {n: value[:number] for n, value in vars(batch).items() if isinstance(value, Tensor | list)}
    return VQABatch(**kept)
