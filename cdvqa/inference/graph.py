"""A scorer as a graph for other runtimes: ONNX and OpenVINO."""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from cdvqa.errors import InputError
from cdvqa.files import write_atomically
from cdvqa.inference.scorer import Scorer

Tensors = dict[str, Tensor]
GraphType = Literal["fp32", "fp16", "int8"]
QUANTISED = ["MatMul", "Gemm"]  # embeddings stay as they are: their rows are looked up, not multiplied


def library(name: str, extra: str = "export") -> Any:
    """Import an optional library and return it; `extra` is the optional dependency of cdvqa that installs it.

    Raises:
        InputError: it is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise InputError(f"{name.partition('.')[0]} is not installed; pip install 'cdvqa[{extra}]'") from error


def trace(scorer: Scorer, inputs: Tensors) -> Any:
    """The scorer as an ONNX program for any number of questions, word pieces and regions.

    Args:
        scorer: of the network.
        inputs: example arguments, as `inputs_of` gives them; at least two questions, word pieces and regions.

    Returns:
        torch's `ONNXProgram`, with the inputs' names and the output `scores` (B, A).

    Raises:
        InputError: torch cannot trace this backbone, or onnxscript is not installed.
    """
    library("onnxscript")
    any_size = torch.export.Dim.DYNAMIC
    try:
        with quiet(), torch.no_grad():
            return torch.onnx.export(
                scorer,
                kwargs=inputs,
                dynamo=True,
                dynamic_shapes={name: {0: any_size, 1: any_size} for name in inputs},
                input_names=list(inputs),
                output_names=["scores"],
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        name = type(scorer.backbone).__name__
        raise InputError(f"torch cannot write {name} as a graph; export it with --to subnetwork") from error


def write_onnx(program: Any, path: Path, dtype: GraphType = "fp32") -> None:
    """Write a program from `trace` as an ONNX file, whole or not at all.

    With `fp16` weights and computation are fp16, inputs and outputs fp32; with `int8` weights are quantised by row, and
    activations dynamically.

    Raises:
        InputError: onnx or onnxruntime, which convert to fp16 and int8, is not installed.
    """
    with write_atomically(path) as temporary:
        if dtype == "int8":
            quantise = library("onnxruntime.quantization").quantize_dynamic
            whole = temporary.with_suffix(".fp32")
            try:
                program.save(whole)
                with quiet():
                    quantise(whole, temporary, op_types_to_quantize=QUANTISED, per_channel=True)
            finally:
                whole.unlink(missing_ok=True)
        elif dtype == "fp16":
            halve = library("onnxruntime.transformers.float16").convert_float_to_float16
            library("onnx").save(halve(program.model_proto, keep_io_types=True), temporary)
        else:
            program.save(temporary)


def write_openvino(onnx: Path, path: Path, dtype: GraphType = "fp32") -> None:
    """Convert an ONNX graph in fp32 to OpenVINO's `path` (.xml) and the .bin beside it.

    Weights are stored in fp16 if `dtype` is fp16, and in fp32 otherwise.

    Raises:
        InputError: openvino is not installed, or the .bin exists.
    """
    openvino, weights = library("openvino"), path.with_suffix(".bin")
    if weights.exists():
        raise InputError(f"{weights}: it is there already; name another file")
    path.parent.mkdir(parents=True, exist_ok=True)
    openvino.save_model(openvino.convert_model(onnx), path, compress_to_fp16=dtype == "fp16")


def onnx_session(path: Path, threads: int) -> Callable[[Tensors], Tensor]:
    """A function from the inputs of a `Scorer` to scores (B, A), computed by onnxruntime on the CPU."""
    onnxruntime = library("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = {argument.name for argument in session.get_inputs()}

    def scores(inputs: Tensors) -> Tensor:
        given = {name: tensor.numpy() for name, tensor in inputs.items() if name in names}
        return torch.from_numpy(session.run(None, given)[0])

    return scores


def openvino_session(path: Path, threads: int) -> Callable[[Tensors], Tensor]:
    """A function from the inputs of a `Scorer` to scores (B, A), computed by OpenVINO on the CPU in fp32."""
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    compiled = library("openvino").compile_model(path, "CPU", settings)
    names = {name for port in compiled.inputs for name in port.get_names()}

    def scores(inputs: Tensors) -> Tensor:
        given = {name: tensor.numpy() for name, tensor in inputs.items() if name in names}
        return torch.from_numpy(compiled(given)[0].copy())

    return scores


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress the warnings and log lines of exporters."""
    loggers = [logging.getLogger(name) for name in ("", "torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
