"""Masks at one bit an entry."""

import numpy as np
import torch
from torch import Tensor


def pack(mask: Tensor) -> Tensor:
    """uint8 of ⌈n/8⌉ bytes, the first entry in the highest bit (as `numpy.packbits`), on the mask's device."""
    return torch.from_numpy(np.packbits(mask.detach().cpu().numpy())).to(mask.device)


def unpack(packed: Tensor, shape: torch.Size | tuple[int, ...]) -> Tensor:
    """The bool mask of `shape` that `pack` packed."""
    entries = int(np.prod(shape, dtype=np.int64))
    bits = np.unpackbits(packed.cpu().numpy(), count=entries)
    return torch.from_numpy(bits.view(np.bool_)).reshape(shape).to(packed.device)


def differing_bits(one: Tensor, other: Tensor) -> int:
    """How many entries differ between two packed masks of one shape."""
    return int(np.bitwise_count(one.cpu().numpy() ^ other.cpu().numpy()).sum())
