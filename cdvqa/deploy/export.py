"""`cdvqa export`: a finished run's network as a small file, or in the formats of other libraries."""

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, Optional, get_args

from jsonargparse.typing import PositiveInt

from cdvqa.cli.inspect import ConfigInspector
from cdvqa.cli.parsing import call
from cdvqa.deploy.forms import metadata_of, table
from cdvqa.deploy.huggingface import write_huggingface
from cdvqa.deploy.network import load
from cdvqa.errors import InputError
from cdvqa.inference.graph import GraphType, trace, write_onnx, write_openvino
from cdvqa.inference.runtimes import example
from cdvqa.messages import progress_bar
from cdvqa.runs.folder import Run, run_of
from cdvqa.sparsity import Subnetwork
from cdvqa.sparsity.files.write import Precision
from cdvqa.sparsity.shrink import without_unused

Target = Literal["subnetwork", "huggingface", "onnx", "openvino"]
# Of each format: the precisions that it supports, and the file or folder that it is written to.
FORMATS: dict[Target, tuple[tuple[Precision, ...], str]] = {
    "subnetwork": (get_args(Precision), "subnetwork.safetensors"),
    "huggingface": (("fp32", "fp16", "bf16"), "huggingface"),
    "onnx": (get_args(GraphType), "network.onnx"),
    "openvino": (("fp32", "fp16"), "openvino/network.xml"),
}


def run(args: list[str]) -> None:
    """Run `cdvqa export` with command-line arguments."""
    network = {"help": "A finished run's folder, such as logs/scenes/lxmert/stage2_…/seed0."}
    print(call(export, args, {"network": network}))


def export(
    network: str,
    to: Target = "subnetwork",
    dtype: Precision = "fp32",
    output: Optional[Path] = None,
    measure: bool = True,
    questions: Optional[PositiveInt] = None,
) -> str:
    """Write a run's network without what no answer needs: as one small file, for transformers, ONNX or OpenVINO.

    `cdvqa test --config RUN/config.yaml --ckpt_path FILE` evaluates the small file, and writes its results beside it.

    Args:
        network: a finished run's folder.
        to: subnetwork (cdvqa's own file), onnx, openvino, or huggingface (a folder with the encoder at its full size
            and zeros in place).
        dtype: of the kept values; int8 has a scale for each row.
        output: the file, or the folder of huggingface; in <run's folder>/export/<dtype>/ where null.
        measure: print size, accuracy, latency and memory of the network in each form, measured now on this machine.
        questions: measure accuracy on the first ones of each test split; on all where null.

    Returns:
        What was written, and the table.

    Raises:
        InputError: no finished run, a file that exists, or a network that the format cannot hold.
    """
    types, name = FORMATS[to]
    if dtype not in types:
        raise InputError(f"--dtype {dtype}: {to} takes {', '.join(types)}")
    source = run_of(Path(network))
    if source is None:
        raise InputError(f"{network}: no run folder; name that of a finished run")
    if not source.finished:
        raise InputError(f"{source.folder}: this run is not finished; finish it with --ckpt_path last first")
    path = output or source.folder / "export" / dtype / name
    if path.exists() and (output or to in ("huggingface", "openvino")):
        raise InputError(f"{path}: it is there already; {'name a new one' if output else 'remove it first'}")
    written = write_small(source, path, dtype) if to == "subnetwork" else write_other(source, path, to, dtype)
    if not measure:
        return written
    with progress_bar("measuring"):
        measured = table(source, partial(write_small, source, dtype=dtype), dtype, questions)
    return f"{written}\n\n{measured}"


def write_small(source: Run, path: Path, dtype: Precision) -> str:
    """Write cdvqa's own file; return a line with its path, its size, and the ratio to all parameters in fp32."""
    whole = Subnetwork.load(source.result())
    model = ConfigInspector(["--config", str(source.config)]).model
    backbone = model.backbone
    small = without_unused(whole, backbone.structures(), backbone.unused())
    small.metadata["identity"] = source.read()["identity"]
    small.save(path, dtype, whole.masks)
    dense = sum(parameter.numel() for parameter in (*backbone.parameters(), *model.objective.shipped()))
    before, after = (sum(tensor.numel() for tensor in kept.state.values()) for kept in (whole, small))
    size, removed = path.stat().st_size, f"; without the {(before - after) / dense:.1%} that no answer needs"
    return (
        f"written: {path}: {size / 1e6:,.2f} MB, {size / dense / 4:.3f} of all parameters in fp32"
        f"{removed if after < before else ''}"
    )


def write_other(source: Run, path: Path, to: Target, dtype: Precision) -> str:
    """Write a format of another library; return a line with its path and size.

    Raises:
        InputError: a generative backbone, or a path that does not end as the format requires.
    """
    network = load(source.folder, exact=to != "huggingface")
    if to == "huggingface":
        write_huggingface(network, path, dtype)
        return f"written: {path}: AutoModel opens it; its README.md has the lines that answer a question"
    if network.scorer is None:
        raise InputError(
            f"{network.backbone.name} generates its answers word by word, which a graph cannot; use --to subnetwork"
        )
    assert dtype != "bf16", "FORMATS has no graphs in bf16"
    program = trace(network.scorer, example(network.scorer))
    program.model.metadata_props.update(metadata_of(network))
    if to == "onnx":
        write_onnx(program, path, dtype)
    else:
        if path.suffix != ".xml":
            raise InputError(f"{path}: OpenVINO's files end in .xml; name one that does")
        with TemporaryDirectory() as temporary:  # an ONNX file beside `path` may be an export of its own
            onnx = Path(temporary) / "network.onnx"
            write_onnx(program, onnx)
            write_openvino(onnx, path, dtype)
    written = [path, path.with_suffix(".bin")] if to == "openvino" else [path]
    size = sum(file.stat().st_size for file in written)
    return f"written: {path}: {size / 1e6:,.2f} MB"
