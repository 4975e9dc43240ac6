"""The subnetwork file: weights, masks and what is needed to use them, at one bit plus the kept values per weight."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import orjson
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from cdvqa.errors import InputError
from cdvqa.files import write_atomically
from cdvqa.sparsity.attach import dense_state
from cdvqa.sparsity.masks.mask import pack, unpack
from cdvqa.sparsity.masks.matrices import masks

FORMAT = "cdvqa-subnetwork"
VERSION = 1
FLOATS = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
INTEGERS = {torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8"}
NAMES = FLOATS | INTEGERS | {torch.bool: "BOOL"}
"""Types by their names in safetensors files."""


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
            write_tensors(temporary, tensors, header)

    @classmethod
    def load(cls, path: str | Path) -> "Subnetwork":
        """Read a file back, to the last bit.

        Nothing that the header says is believed before it is checked, so a broken file costs no more memory than a few
        times its size.

        Raises:
            InputError: no such file, a truncated or inconsistent one, one of another program or of a newer version.
        """
        if not Path(path).is_file():
            raise InputError(f"there is no subnetwork file {path}")
        try:
            with safe_open(path, framework="pt") as file:
                header = Header.read(path, file.metadata() or {})
                found = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
                header.check({key: (part.get_dtype(), part.get_shape()) for key, part in found.items()})
                tensors = {key: file.get_tensor(key) for key in found}
        except (SafetensorError, OSError) as error:
            raise InputError(
                f"{path} is truncated or no safetensors file ({error}); copy or create it again"
            ) from error
        state, unpacked = {}, {}
        for key, tensor in tensors.items():
            if tensor.is_floating_point() and not tensor.isfinite().all():
                header.refuse(f"{key} has values that are not finite")
        for name in header.tensors:
            if name not in header.shapes:
                state[name] = tensors[f"dense/{name}"]
                continue
            mask, kept = unpack(tensors[f"mask/{name}"], header.shapes[name]), tensors[f"kept/{name}"]
            if int(mask.count_nonzero()) != len(kept):
                header.refuse(f"the mask of {name} keeps {int(mask.count_nonzero())} values, the file has {len(kept)}")
            state[name] = kept.new_zeros(header.shapes[name]).masked_scatter_(mask, kept)
            unpacked[name] = mask
        return cls(state, {name: unpacked[name] for name in header.shapes}, header.metadata)


@dataclass
class Header:
    """What the header of a subnetwork file says, checked."""

    path: str | Path
    tensors: list[str]
    shapes: dict[str, tuple[int, ...]]
    metadata: dict[str, Any]

    @classmethod
    def read(cls, path: str | Path, header: Mapping[str, str]) -> "Header":
        """The header's fields.

        Raises:
            InputError: another program's header, one of a newer version, or one whose fields are missing or malformed.
        """
        if header.get("format") != FORMAT:
            raise InputError(f"{path} is a safetensors file but no cdvqa subnetwork; expected a subnetwork.safetensors")
        found, version = cls(path, [], {}, {}), header.get("version", "")
        if not (version.isdecimal() and version.isascii() and len(version) < 9 and int(version) > 0):
            found.refuse(f"its version is {version!r:.40}")
        if int(version) > VERSION:
            raise InputError(f"{path} has subnetwork format {version}, this cdvqa reads up to {VERSION}; update cdvqa")
        try:
            tensors, shapes, metadata = (orjson.loads(header[key]) for key in ("tensors", "shapes", "metadata"))
        except (KeyError, orjson.JSONDecodeError) as error:
            found.refuse(f"its header lacks a field or holds no JSON ({error})")
        if not (isinstance(tensors, list) and all(isinstance(name, str) for name in tensors)):
            found.refuse("its list of tensors holds something else than names")
        if len(set(tensors)) < len(tensors):
            found.refuse("its list of tensors has a duplicate name")
        if not (isinstance(shapes, dict) and isinstance(metadata, dict)):
            found.refuse("its shapes or its metadata are no JSON object")
        for name, shape in shapes.items():
            if not (
                isinstance(shape, list) and len(shape) <= 8 and all(type(n) is int and 0 <= n < 2**31 for n in shape)
            ):
                found.refuse(f"the shape of {name:.60} is no list of sizes")
        if unknown := shapes.keys() - set(tensors):
            found.refuse(f"{min(unknown):.60} has a shape and is not in the list of tensors")
        return cls(path, tensors, {name: tuple(shape) for name, shape in shapes.items()}, metadata)

    def check(self, stored: Mapping[str, tuple[str, list[int]]]) -> None:
        """Raise InputError unless the tensors `stored` (type and shape by key) are those that the header names."""
        dense = {f"dense/{name}" for name in self.tensors if name not in self.shapes}
        expected = dense | {f"{kind}/{name}" for kind in ("kept", "mask") for name in self.shapes}
        if wrong := expected ^ stored.keys():
            key = min(wrong)
            self.refuse(
                f"{key:.60} is {'missing' if key in expected else 'not among the tensors that its header names'}"
            )
        for key in dense:
            if stored[key][0] not in NAMES.values():
                self.refuse(f"{key:.60} has the type {stored[key][0]}")
        for name, shape in self.shapes.items():
            size, packed, kept = math.prod(shape), stored[f"mask/{name}"], stored[f"kept/{name}"]
            if packed != ("U8", [-(-size // 8)]):
                self.refuse(f"the mask of {name:.60} is not of one bit for each of {size} weights")
            if kept[0] not in FLOATS.values() or len(kept[1]) != 1:
                self.refuse(f"the kept values of {name:.60} are no list of floating-point numbers")

    def refuse(self, reason: str) -> NoReturn:
        """Raise InputError for a broken file."""
        raise InputError(f"{self.path}: a broken network file: {reason}; copy or create it again")


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file: the same bytes for the same content, and the permissions of any new file.

    The library's own writer puts metadata in a random order and takes a private mode.
    """
    order = sorted(tensors, key=lambda key: (-tensors[key].element_size(), key))  # aligned, as the library has them
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    end = 0
    for key in order:
        start, end = end, end + tensors[key].nbytes
        header[key] = {
            "dtype": NAMES[tensors[key].dtype],
            "shape": list(tensors[key].shape),
            "data_offsets": [start, end],
        }
    text = orjson.dumps(header)
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for key in order:
            file.write(tensors[key].contiguous().view(-1).view(torch.uint8).numpy().data)
