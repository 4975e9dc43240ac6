"""Masks at one bit an entry."""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


def pack(mask: Tensor) -> Tensor:
    """uint8 of ⌈n/8⌉ bytes, the first entry in the highest bit (as `numpy.packbits`), on the mask's device."""
    mask = mask.detach().reshape(-1)
    return torch.from_numpy(np.packbits(mask.numpy())) if mask.device.type == "cpu" else pack_by_shifts(mask)


def unpack(packed: Tensor, shape: torch.Size | tuple[int, ...]) -> Tensor:
    """The bool mask of `shape` that `pack` packed."""
    entries = math.prod(shape)
    if packed.device.type == "cpu":
        bits = torch.from_numpy(np.unpackbits(packed.numpy(), count=entries).view(np.bool_))
    else:
        bits = unpack_by_shifts(packed)[:entries]
    return bits.reshape(shape)


def pack_by_shifts(mask: Tensor) -> Tensor:
    """`pack` of a 1-D mask where numpy cannot read it."""
    eights = F.pad(mask.to(torch.uint8), (0, -len(mask) % 8)).view(-1, 8)
    return (eights << _shifts(mask)).sum(1, dtype=torch.uint8)


def unpack_by_shifts(packed: Tensor) -> Tensor:
    """Eight entries a byte, where numpy cannot read it."""
    return (packed[:, None] >> _shifts(packed) & 1).view(-1).bool()


def _shifts(like: Tensor) -> Tensor:
    return torch.arange(7, -1, -1, dtype=torch.uint8, device=like.device)
