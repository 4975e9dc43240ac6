"""The header of a network file. docs/format.md describes it."""

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import orjson
import torch
from torch import Tensor

from cdvqa.errors import InputError

FORMAT = "cdvqa-subnetwork"
VERSION = 2  # 1 had neither checksums, deflated masks nor int8
FLOATS = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
INTEGERS = {torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8"}
NAMES = FLOATS | INTEGERS | {torch.bool: "BOOL"}
"""Types by their names in safetensors files."""
SHORTEST_CODE = 8
"""Bytes of a mask for each byte of Huffman codes, at most."""


@dataclass
class Header:
    """The checked header of a network file.

    Attributes:
        path: the file, which errors name.
        tensors: plain parameter names of all tensors.
        shapes: of the masked matrices, by name.
        metadata: what JSON can hold.
        deflated: names of the matrices whose mask is stored as Huffman codes.
        checksums: CRC-32 by stored key; None in version 1, which has none.
    """

    path: str | Path
    tensors: list[str] = field(default_factory=list)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    deflated: frozenset[str] = frozenset()
    checksums: dict[str, int] | None = None

    @classmethod
    def read(cls, path: str | Path, header: Mapping[str, str]) -> "Header":
        """The header's fields.

        Raises:
            InputError: another program's header, one of a newer version, or one whose fields are missing or malformed.
        """
        if header.get("format") != FORMAT:
            raise InputError(f"{path} is a safetensors file but no cdvqa subnetwork; expected a subnetwork.safetensors")
        found, version = cls(path), header.get("version", "")
        if not (version.isdecimal() and version.isascii() and len(version) < 9 and int(version) > 0):
            found.refuse(f"its version is {version!r:.40}")
        if int(version) > VERSION:
            raise InputError(f"{path} has subnetwork format {version}, this cdvqa reads up to {VERSION}; update cdvqa")
        try:
            tensors, shapes, metadata = (orjson.loads(header[key]) for key in ("tensors", "shapes", "metadata"))
            deflated, checksums = (
                (orjson.loads(header[key]) for key in ("deflated", "crc32")) if int(version) > 1 else ([], None)
            )
        except (KeyError, orjson.JSONDecodeError) as error:
            found.refuse(f"its header lacks a field or holds no JSON ({error})")
        if not all(
            isinstance(part, list) and all(isinstance(name, str) for name in part) for part in (tensors, deflated)
        ):
            found.refuse("a list of tensors holds something else than names")
        if len(set(tensors)) < len(tensors):
            found.refuse("its list of tensors has a duplicate name")
        if not (isinstance(shapes, dict) and isinstance(metadata, dict)):
            found.refuse("its shapes or its metadata are no JSON object")
        for name, shape in shapes.items():
            if not (
                isinstance(shape, list) and len(shape) <= 8 and all(type(n) is int and 0 <= n < 2**31 for n in shape)
            ):
                found.refuse(f"the shape of {name:.60} is no list of sizes")
        for names, what in ((shapes, set(tensors)), (deflated, set(shapes))):
            if unknown := set(names) - what:
                found.refuse(f"{min(unknown):.60} is described and not among its tensors")
        if checksums is not None and not (
            isinstance(checksums, dict) and all(type(number) is int for number in checksums.values())
        ):
            found.refuse("its checksums are no numbers")
        sizes = {name: tuple(shape) for name, shape in shapes.items()}
        return cls(path, tensors, sizes, metadata, frozenset(deflated), checksums)

    def check(self, stored: Mapping[str, tuple[str, list[int]]]) -> None:
        """Raise InputError unless the tensors `stored` (type and shape by key) are those that the header names."""
        dense = {f"dense/{name}" for name in self.tensors if name not in self.shapes}
        expected = dense | {f"{kind}/{name}" for kind in ("kept", "mask") for name in self.shapes}
        # int8 values of a masked matrix have scales; a tensor without a mask may be of integers, or have them.
        scaled = {name for name in self.shapes if stored.get(f"kept/{name}", ("",))[0] == "I8"}
        scaled |= {name for name in self.tensors if name not in self.shapes and f"scale/{name}" in stored}
        expected |= {f"scale/{name}" for name in scaled}
        for there in (stored, *([self.checksums] if self.checksums is not None else [])):
            if wrong := expected ^ there.keys():
                key = min(wrong)
                missing = "missing, or has no checksum"
                self.refuse(
                    f"{key:.60} is {missing if key in expected else 'not among the tensors that its header names'}"
                )
        for key in dense:
            if stored[key][0] not in NAMES.values():
                self.refuse(f"{key:.60} has the type {stored[key][0]}")
        for name, shape in self.shapes.items():
            size, mask, kept = math.prod(shape), stored[f"mask/{name}"], stored[f"kept/{name}"]
            length = -(-size // 8)
            if name in self.deflated:
                sound = mask[0] == "U8" and len(mask[1]) == 1 and length <= SHORTEST_CODE * mask[1][0]
            else:
                sound = mask == ("U8", [length])
            if not sound:
                self.refuse(f"the mask of {name:.60} is not of one bit for each of {size} weights")
            if kept[0] not in (*FLOATS.values(), "I8") or len(kept[1]) != 1:
                self.refuse(f"the kept values of {name:.60} are no list of numbers")
        for name in scaled:
            kind, sizes = ("I8", list(self.shapes[name])) if name in self.shapes else stored[f"dense/{name}"]
            if not (kind == "I8" and sizes and stored[f"scale/{name}"] == ("BF16", [sizes[0]])):
                self.refuse(f"the scales of {name:.60} are not one for each row of int8")

    def refuse(self, reason: str) -> NoReturn:
        """Raise InputError for a broken file."""
        raise InputError(f"{self.path}: a broken network file: {reason}; copy or create it again")


def checksum(tensor: Tensor) -> int:
    """CRC-32 of a tensor's bytes."""
    return zlib.crc32(tensor.contiguous().view(-1).view(torch.uint8).numpy().data) if tensor.numel() else 0
