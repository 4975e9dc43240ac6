"""The subnetwork file: weights, masks and what is needed to use them, at one bit plus the kept values per weight."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from cdvqa.errors import InputError
from cdvqa.files import write_atomically
from cdvqa.sparsity.attach import dense_state
from cdvqa.sparsity.masks.bits import pack, unpack
from cdvqa.sparsity.masks.matrices import masks

FORMAT = "cdvqa-subnetwork"
VERSION = 1


@dataclass
class Subnetwork:
    """A pruned model by itself.

    In the file, a masked matrix NAME is `kept/NAME` (its kept values, 1-D) and `mask/NAME` (the mask, bit-packed as
    `numpy.packbits` does), every other tensor is `dense/NAME`; the header holds format, version, shapes and metadata.
    """

    state: dict[str, Tensor]
    """Tensors by plain parameter name; masked matrices are dense and hold zeros where pruned."""
    masks: dict[str, Tensor]
    """Bool masks by parameter name, True = kept, in the backbone's order."""
    metadata: dict[str, Any]
    """What JSON can hold: objective, sparsity, answer vocabulary, text format …"""

    @classmethod
    def from_model(cls, model: nn.Module, metadata: dict[str, Any]) -> "Subnetwork":
        """Copy a model with masks attached, as its masks are now; the model is left as it is."""
        return cls(dense_state(model), {name: mask.cpu() for name, mask in masks(model).items()}, metadata)

    def save(self, path: str | Path) -> None:
        """Write the file, whole or not at all.

        Raises:
            ValueError: a pruned entry is not zero, or a mask has no tensor.
        """
        tensors = {}
        for name, value in self.state.items():
            if name not in self.masks:
                tensors[f"dense/{name}"] = value.detach().cpu().contiguous()
                continue
            mask, value = self.masks[name].cpu(), value.detach().cpu()
            kept = value.masked_select(mask)
            if kept.count_nonzero() < value.count_nonzero():
                raise ValueError(f"{name} is not zero where its mask is; fold the mask before saving")
            tensors[f"kept/{name}"], tensors[f"mask/{name}"] = kept, pack(mask)
        header = {
            "format": FORMAT,
            "version": str(VERSION),
            "tensors": orjson.dumps(list(self.state)).decode(),
            "shapes": orjson.dumps({name: list(mask.shape) for name, mask in self.masks.items()}).decode(),
            "metadata": orjson.dumps(self.metadata).decode(),
        }
        with write_atomically(path) as temporary:
            save_file(tensors, temporary, header)

    @classmethod
    def load(cls, path: str | Path) -> "Subnetwork":
        """Read a file back, to the last bit.

        Raises:
            InputError: no such file, a truncated one, one of another program, or one of a newer version.
        """
        if not Path(path).is_file():
            raise InputError(f"there is no subnetwork file {path}")
        try:
            with safe_open(path, framework="pt") as file:
                header = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
        except (SafetensorError, OSError) as error:
            raise InputError(
                f"{path} is truncated or no safetensors file ({error}); copy or create it again"
            ) from error
        if header.get("format") != FORMAT:
            raise InputError(f"{path} is a safetensors file but no cdvqa subnetwork; expected a subnetwork.safetensors")
        if int(header["version"]) > VERSION:
            raise InputError(
                f"{path} has subnetwork format {header['version']}, this cdvqa reads up to {VERSION}; update cdvqa"
            )
        shapes = orjson.loads(header["shapes"])
        state, unpacked = {}, {}
        for name in orjson.loads(header["tensors"]):
            if name not in shapes:
                state[name] = tensors[f"dense/{name}"]
                continue
            mask, kept = unpack(tensors[f"mask/{name}"], shapes[name]), tensors[f"kept/{name}"]
            state[name] = kept.new_zeros(shapes[name]).masked_scatter_(mask, kept)
            unpacked[name] = mask
        return cls(state, {name: unpacked[name] for name in shapes}, orjson.loads(header["metadata"]))
