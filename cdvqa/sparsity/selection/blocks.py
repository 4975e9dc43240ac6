"""Large CPU tensors read a block at a time, so that a block and its temporaries stay in the processor's cache."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

BLOCK = 1 << 16
"""Entries of a block, 256 KiB of fp32; a multiple of 8, so that the mask of a block can be packed by itself."""

Place = tuple[int, int]
"""Number of a part, and position in it of a block's first entry."""


def places(parts: Sequence[Tensor]) -> list[Place]:
    """Where the blocks of all 1-D `parts` start, in their order."""
    return [(part, start) for part, values in enumerate(parts) for start in range(0, len(values), BLOCK)]


def read_blocks(parts: Sequence[Tensor], where: Iterable[Place]) -> Iterator[tuple[Place, np.ndarray]]:
    """The values (views) of the blocks at the places `where`."""
    arrays = [part.numpy() for part in parts]
    for part, start in where:
        yield (part, start), arrays[part][start : start + BLOCK]


def read_sizes(weight: Tensor, start: int, out: np.ndarray) -> np.ndarray:
    """|weight| of the `len(out)` entries from `start` on of a 1-D weight of any floating type, written to `out`."""
    values = weight[start : start + len(out)]
    # numpy knows no bf16; a block of the scores' own type is not copied.
    return np.abs(values.to(torch.from_numpy(out).dtype).numpy(), out=out)
