"""`cdvqa export`: a finished run's network as one small file."""

from dataclasses import replace
from pathlib import Path
from typing import Optional

from cdvqa.backbones import Backbone
from cdvqa.cli.inspect import ConfigInspector
from cdvqa.cli.parsing import OneLineParser
from cdvqa.errors import InputError
from cdvqa.runs.folder import run_of
from cdvqa.sparsity import Subnetwork
from cdvqa.sparsity.files.write import Precision
from cdvqa.sparsity.shrink import left_over, shrink_tensors

MEGABYTE = 1e6


def run(args: list[str]) -> None:
    """Run `cdvqa export` with command-line arguments."""
    parser = OneLineParser(prog="cdvqa export", description=export.__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("network", help="A finished run's folder, such as logs/scenes/lxmert/stage2_…/seed0.")
    parser.add_function_arguments(export, skip={"network"}, as_group=False)
    print(export(**parser.instantiate_classes(parser.parse_args(args[1:]))))


def export(network: str, dtype: Precision = "fp32", output: Optional[Path] = None) -> str:
    """Write a run's network as one small file, without heads and neurons that its masks have emptied.

    `cdvqa test --config RUN/config.yaml --ckpt_path FILE` evaluates it, and writes its results beside it.

    Args:
        network: a finished run's folder.
        dtype: of the kept values; int8 has a scale for each row.
        output: the file; <run's folder>/export/<dtype>/subnetwork.safetensors where null.

    Returns:
        What was written: bytes, and their ratio to all parameters in fp32.
    """
    source = run_of(Path(network))
    if source is None:
        raise InputError(f"{network}: no run folder")
    if not source.finished:
        raise InputError(f"{source.folder}: this run is not finished; finish it with --ckpt_path last first")
    if output and output.exists():
        raise InputError(f"--output {output}: it is there already; name a new file")
    whole = Subnetwork.load(source.result())
    small = without_empty(whole, ConfigInspector(["--config", str(source.config)]).model.backbone)
    small.metadata["identity"] = source.read()["identity"]
    path = output or source.folder / "export" / dtype / "subnetwork.safetensors"
    small.save(path, dtype, whole.masks)
    dense = sum(tensor.numel() for tensor in whole.state.values()) * 4
    size, left = path.stat().st_size, sum(tensor.numel() for tensor in small.state.values())
    removed = f"; {1 - 4 * left / dense:.1%} of the parameters were taken out as empty heads and neurons"
    return (
        f"written: {path}: {size / MEGABYTE:,.2f} MB, {size / dense:.3f} of all parameters in fp32"
        f"{removed if 4 * left < dense else ''}"
    )


def without_empty(network: Subnetwork, backbone: Backbone) -> Subnetwork:
    """The network without empty heads and neurons.

    Where some are taken out, so are masks that keep everything. Otherwise a further training still needs every mask.
    """
    structures = backbone.structures()
    left = left_over(structures, network.masks)
    if not left:
        return network
    masks = shrink_tensors(network.masks, structures, left)
    masks = {name: mask for name, mask in masks.items() if not mask.all()}
    state = shrink_tensors(network.state, structures, left)
    return replace(network, state=state, masks=masks, metadata=network.metadata | {"left": left})
