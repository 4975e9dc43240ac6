"""Writing the file of a network."""

import math
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

import orjson
import torch
from torch import Tensor

from cdvqa.errors import InputError
from cdvqa.sparsity.files.header import FORMAT, NAMES, VERSION, checksum
from cdvqa.sparsity.masks.mask import pack

Precision = Literal["fp32", "fp16", "bf16", "int8"]
STORED = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "int8": torch.float16}
"""The type of values that are not in int8."""
DEFLATE_ABOVE = 0.55
"""Share of zeros above which Huffman codes of a mask's bytes are shorter than its bits."""


def write_network(
    path: Path,
    state: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    metadata: Mapping[str, Any],
    precision: Precision | None = None,
    whole: Collection[str] = (),
) -> None:
    """Write a network file.

    Args:
        path: the file.
        state: tensors by plain parameter name.
        masks: bool masks of some of them, True = kept.
        metadata: what JSON can hold.
        precision: the type of the kept values; their own where null. int8 has a scale for each row, and tensors without
            a mask are fp16 then.
        whole: matrices without a mask that become int8 as well.

    Raises:
        ValueError: a pruned entry is not zero.
        InputError: a value is too large for fp16.
    """
    stored: dict[str, Tensor] = {}
    deflated = []
    for name, value in state.items():
        value = value.detach().cpu().contiguous()
        if name not in masks:
            if precision == "int8" and name in whole:
                stored[f"dense/{name}"], stored[f"scale/{name}"] = quantised(value)
            else:
                stored[f"dense/{name}"] = converted(name, value, precision)
            continue
        mask = masks[name].cpu()
        if value.masked_select(mask).count_nonzero() < value.count_nonzero():
            raise ValueError(f"{name} is not zero where its mask is; fold the mask before saving")
        if precision == "int8":
            value, stored[f"scale/{name}"] = quantised(value)
        else:
            value = converted(name, value, precision)
        stored[f"kept/{name}"], bits = value.masked_select(mask), pack(mask)
        if len(stored[f"kept/{name}"]) < (1 - DEFLATE_ABOVE) * mask.numel():
            codes = deflate(bits)
            if len(codes) < len(bits):
                bits = codes
                deflated.append(name)
        stored[f"mask/{name}"] = bits
    header = {
        "format": FORMAT,
        "version": str(VERSION),
        "tensors": orjson.dumps(list(state)).decode(),
        "shapes": orjson.dumps({name: list(mask.shape) for name, mask in masks.items()}).decode(),
        "deflated": orjson.dumps(deflated).decode(),
        "crc32": orjson.dumps({key: checksum(stored[key]) for key in sorted(stored)}).decode(),
        "metadata": orjson.dumps(metadata).decode(),
    }
    write_tensors(path, stored, header)


def converted(name: str, value: Tensor, precision: Precision | None) -> Tensor:
    """A tensor in the type in which it is stored."""
    if precision is None or not value.is_floating_point():
        return value
    narrow = value.to(STORED[precision])
    if not narrow.isfinite().all() and value.isfinite().all():
        raise InputError(f"{name} has values beyond those of fp16; use bf16 or fp32")
    return narrow


def quantised(value: Tensor) -> tuple[Tensor, Tensor]:
    """A matrix as int8, and the scale (bf16) of each row: the greatest magnitude is 127 times the scale."""
    rows = value.float().view(len(value), math.prod(value.shape[1:]))
    scale = (rows.abs().amax(1) / 127).bfloat16() if rows.numel() else torch.zeros(len(rows), dtype=torch.bfloat16)
    codes = (rows / scale.float().where(scale > 0, 1)[:, None]).round().clamp(-127, 127)
    return codes.to(torch.int8).view(value.shape), scale


def deflate(bits: Tensor) -> Tensor:
    """Bytes as zlib's Huffman codes; its search for repetitions finds none in a mask."""
    deflater = zlib.compressobj(strategy=zlib.Z_HUFFMAN_ONLY)
    codes = deflater.compress(bits.numpy().tobytes()) + deflater.flush()
    return torch.frombuffer(bytearray(codes), dtype=torch.uint8)


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
