"""The k-th smallest of many numbers on the CPU: exact, a few passes over memory, without a copy of them all.

A small sample gives a bracket that holds the answer with odds of some hundred to one. One pass counts what lies below
the bracket and gathers what lies inside it; numbers tied with an end of the bracket, however many, are only counted.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

BLOCK = 1 << 16
"""Entries of a block, 256 KiB of fp32, which stays in the processor's cache; a multiple of 8, so that the mask of a
block can be packed by itself."""

Place = tuple[int, int]
"""Number of a part, and position in it of a block's first entry."""

Counted = Iterable[tuple[Place, np.ndarray, np.ndarray]]
"""Blocks: where they are, their values, and which of them count."""


class Found(NamedTuple):
    """The k-th smallest number, how many are below it, how many are equal to it, and the blocks that may hold these."""

    value: float
    below: int
    ties: int
    where: list[Place]


def kth_smallest(parts: Sequence[Tensor], k: int) -> Tensor:
    """The k-th smallest value (1-based, a scalar of the parts' type) over all `parts` together; NaN if any of them is.

    0.0 and -0.0 are equal, as floats are, and come back as 0.0.

    Args:
        parts: 1-D CPU tensors, all float32 or all float64.
        k: 1 to the number of values.
    """
    total = sum(map(len, parts))
    found = _search(lambda: _scores(parts), _pick(parts, _sample(total), parts[0].dtype), k, total)
    return parts[0].new_tensor(found.value)


def last_zero(scores: Sequence[Tensor], weights: Sequence[Tensor], zeros: int) -> tuple[Tensor, Tensor]:
    """The entry that ranks `zeros`-th (1-based) in ascending (score, |weight|, part, position).

    Only entries tied at its score are ranked by |weight|, and only those tied in both by position.

    Args:
        scores: as the parts of `kth_smallest`.
        weights: 1-D, one per part and as long, of any floating type.

    Returns:
        Its score (NaN if any score is) and |weight|, of the scores' type; and its position as each part sees it, int64:
        -1 before the part's first entry, the part's length beyond its last.
    """
    total, dtype = sum(map(len, scores)), scores[0].dtype
    positions = _sample(total)
    sample = _pick(scores, positions, dtype)
    score, below, ties, tied_blocks = _search(lambda: _scores(scores), sample, zeros, total)
    last = [-1] * len(scores)
    if math.isnan(score):
        return scores[0].new_tensor([score, math.nan]), torch.tensor(last)

    left = zeros - below
    sample = np.abs(_pick(weights, positions[sample == score], dtype))
    size, below, _, last_blocks = _search(lambda: _sizes(scores, weights, score, tied_blocks), sample, left, ties)
    left -= below
    for (part, start), sizes, tied in _sizes(scores, weights, score, last_blocks):
        level = np.flatnonzero((sizes == size) & tied)
        if len(level) >= left:
            # The parts before this one lie below the last zero, those after it above.
            last[: part + 1] = [*map(len, scores[:part]), start + int(level[left - 1])]
            break
        left -= len(level)
    return scores[0].new_tensor([score, size]), torch.tensor(last)


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


def _scores(parts: Sequence[Tensor]) -> Counted:
    everything = np.ones(BLOCK, np.bool_)
    return ((place, values, everything[: len(values)]) for place, values in read_blocks(parts, places(parts)))


def _sizes(scores: Sequence[Tensor], weights: Sequence[Tensor], score: float, where: Iterable[Place]) -> Counted:
    """|weights| of those blocks that have scores tied at `score`; the tied ones count."""
    tied, sizes = np.empty(BLOCK, np.bool_), torch.empty(BLOCK, dtype=scores[0].dtype, device="cpu").numpy()
    for (part, start), values in read_blocks(scores, where):
        if np.equal(values, score, out=tied[: len(values)]).any():
            yield (part, start), read_sizes(weights[part], start, sizes[: len(values)]), tied[: len(values)]


def _search(read: Callable[[], Counted], sample: np.ndarray, k: int, total: int) -> Found:
    """The k-th smallest of the `total` values that `read` gives; `sample` holds some of them."""
    if np.isnan(sample).any():
        return Found(math.nan, 0, 0, [])
    sample = np.sort(sample)
    centre, deviation = len(sample) * k / total, math.sqrt(len(sample) * k / total * (1 - k / total))
    least, most, margin = -math.inf, math.inf, 3.0
    while True:
        slack = margin * (deviation + 1)
        first, last = math.floor(centre - slack), math.ceil(centre + slack)
        low = max(least, float(sample[first]) if first >= 0 else -math.inf)
        high = min(most, float(sample[last]) if last < len(sample) else math.inf)
        below, up_to, pieces, where = _split(read(), low, high)
        inside = np.concatenate(pieces)
        if np.isnan(inside).any():
            return Found(math.nan, 0, 0, [])
        if below < k <= up_to:
            return Found(low + 0.0, below, up_to - below, where)
        if up_to < k <= up_to + len(inside):
            value = np.partition(inside, k - up_to - 1)[k - up_to - 1]
            ties = np.flatnonzero(inside == value)
            holders = np.unique(np.searchsorted(np.cumsum([*map(len, pieces)]), ties, side="right"))
            below = up_to + int(np.count_nonzero(inside < value))
            return Found(float(value) + 0.0, below, len(ties), [where[holder] for holder in holders])
        # The answer lies below the bracket, above it, or is tied with its upper end.
        least, most = (least, low) if k <= below else (high, most)
        margin *= 4


def _split(counted: Counted, low: float, high: float) -> tuple[int, int, list[np.ndarray], list[Place]]:
    """How many values are below `low`, how many up to it; of each block, those strictly between the two and any NaN."""
    below = up_to = 0
    pieces, where = [], []
    every_mask, every_beyond = np.empty(BLOCK, np.bool_), np.empty(BLOCK, np.bool_)
    for place, values, counts in counted:
        mask, beyond = every_mask[: len(values)], every_beyond[: len(values)]
        below += int(np.count_nonzero(np.logical_and(np.less(values, low, out=mask), counts, out=mask)))
        up_to += int(np.count_nonzero(np.logical_and(np.less_equal(values, low, out=mask), counts, out=mask)))
        mask |= np.greater_equal(values, high, out=beyond)
        pieces.append(values.compress(np.less(mask, counts, out=mask)))  # counts, and neither up to low nor from high
        where.append(place)
    return below, up_to, pieces, where


@lru_cache(maxsize=16)
def _sample(total: int) -> np.ndarray:
    """Sorted positions of a sample of `total` entries, one from each of as many strata; always the same.

    2·n^⅔ of n entries make the cost of the sample about that of gathering the bracket, whose share falls as 1/√size.
    """
    size = min(total, math.ceil(2 * total ** (2 / 3)))
    ends = np.arange(size + 1) * total // size
    return np.random.default_rng(0).integers(ends[:-1], ends[1:])


def _pick(parts: Sequence[Tensor], positions: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    """The entries at `positions` of all parts taken as one."""
    starts = np.cumsum([0, *map(len, parts)])
    cuts = np.split(positions, np.searchsorted(positions, starts[1:-1]))
    places = [torch.from_numpy(cut - start) for cut, start in zip(cuts, starts[:-1], strict=True)]
    # numpy's own `take` knows no bf16
    picked = torch.cat([part.index_select(0, place) for part, place in zip(parts, places, strict=True)])
    array: np.ndarray = picked.to(dtype).numpy()
    return array
