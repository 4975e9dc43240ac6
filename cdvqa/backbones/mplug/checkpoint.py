"""mPLUG's weights on disk: the authors' checkpoints, and folders in cdvqa's own format."""

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import torch
from pytorch_lightning.utilities import rank_zero_warn
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cdvqa.backbones.backbone import LoadReport
from cdvqa.backbones.huggingface import load_report
from cdvqa.backbones.mplug.names import POSITIONS, resize_positions, translate
from cdvqa.errors import InputError
from cdvqa.files import read_json, write_atomically, write_json

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"


def load_authors(model: nn.Module, path: Path) -> LoadReport:
    """Fill `model` from a checkpoint of the authors.

    If the checkpoint has no decoder, the model's keeps its weights, and the report lists them as missing.

    Raises:
        InputError: absent, unreadable, of another shape, or matching less than 95 % of the parameters.
    """
    state, foreign = translate(read_state(path), model.state_dict())
    if POSITIONS in state:
        state[POSITIONS] = resize_positions(state[POSITIONS], len(model.get_parameter(POSITIONS)))
    without = () if any(name.startswith("decoder.") for name in state) else ("decoder.", "classifier.")
    report = fill(model, state, str(path), sorted(foreign), without)
    if without:
        rank_zero_warn(f"{path}: there is no text decoder in this checkpoint, so it starts from random weights")
    return report


def read_state(path: Path) -> Mapping[str, Tensor]:
    """The weights in the file's `model` or, where DeepSpeed wrote it, `module`; no code in the file is run.

    Raises:
        InputError: the file is absent or unreadable, or holds anything but weights.
    """
    remedy = "name mPLUG's checkpoint (mplug_base.pth) with --model.backbone.pretrained FILE"
    if not path.is_file():
        raise InputError(f"{path}: no such file; {remedy}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        allowed = "GLOBAL" in str(error)  # a whole file with objects that are not tensors
        reason = "it holds more than tensors and numbers" if allowed else "it is not a torch file, or not all of it"
        more = "; save its weights alone: torch.save({'model': weights}, FILE)" if allowed else f"; {remedy}"
        raise InputError(f"{path}: cannot be read ({reason}){more}") from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise InputError(f"{path}: cannot be read (it is not a torch file, or not all of it); {remedy}") from error
    for key in ("model", "module"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            state: Mapping[str, Tensor] = content[key]
            return state
    raise InputError(f"{path}: there is neither `model` nor `module` in this file; {remedy}")


def fill(
    model: nn.Module, state: Mapping[str, Tensor], source: str, unexpected: list[str], without: tuple[str, ...] = ()
) -> LoadReport:
    """Copy `state` into `model`, and report what it filled.

    Args:
        model: has a parameter of each name in `state`.
        state: weights by the model's names.
        source: where they came from, for messages.
        unexpected: names in the source that the model lacks.
        without: prefixes of the model's names that the source need not hold.

    Raises:
        InputError: a weight of another shape, or less than 95 % of the parameters.
    """
    own = model.state_dict()
    for name, tensor in state.items():
        if tensor.shape != own[name].shape:
            theirs, ours = tuple(tensor.shape), tuple(own[name].shape)
            raise InputError(f"{source}: {name} is {theirs} where the model has {ours}; it is another model's")
    sizes = {name: tensor.numel() for name, tensor in own.items() if not name.startswith(without or ("\0",))}
    missing = sorted(name for name in own if name not in state)
    report = load_report(source, sizes, missing, unexpected, "mPLUG")
    # Parameters on the meta device, as in `cdvqa check`, have no memory to copy to: they are replaced.
    model.load_state_dict(state, strict=False, assign=next(iter(own.values())).is_meta)
    return report


def read_config(folder: Path) -> dict[str, Any]:
    """The sizes of the model in `folder`, as `MplugConfig.from_dict` takes them.

    Raises:
        InputError: config.json is absent, unreadable or not a mapping.
    """
    path = folder / CONFIG_FILE
    try:
        config = read_json(path)
    except (OSError, orjson.JSONDecodeError) as error:
        raise InputError(f"{path}: cannot be read as JSON; is {folder} a folder of an mPLUG's weights?") from error
    if not isinstance(config, dict):
        raise InputError(f"{path}: not a table of sizes; is {folder} a folder of an mPLUG's weights?")
    return config


def load_folder(model: nn.Module, folder: Path) -> LoadReport:
    """Fill `model` from a folder that `save_folder` wrote.

    Raises:
        InputError: as `load_authors`.
    """
    path = folder / WEIGHTS_FILE
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read ({error}); copy the folder again") from error
    own = model.state_dict()
    unexpected = sorted(name for name in state if name not in own)
    return fill(model, {name: state[name] for name in own if name in state}, str(folder), unexpected)


def save_folder(model: nn.Module, config: dict[str, Any], folder: Path) -> None:
    """Write a model's sizes and weights, each file whole or not at all."""
    write_json(folder / CONFIG_FILE, config)
    with write_atomically(folder / WEIGHTS_FILE) as temporary:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}, temporary)
