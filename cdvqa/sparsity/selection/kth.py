"""The last zero of a ranking: the entry that ranks k-th in ascending (score, |weight|, part, position), exactly.

The CPU searches in a few passes over memory, without a copy of all numbers. A small sample gives a bracket that holds
the answer in about 99 of 100 cases; one pass counts the numbers below the bracket and gathers those inside it. Numbers
tied with an end of the bracket, however many, are only counted. A GPU sorts, where its memory allows.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

BLOCK = 1 << 16
"""Entries of a block, 256 KiB of fp32, which stays in the processor's cache."""


def last_zero(scores: Sequence[Tensor], weights: Sequence[Tensor], zeros: int) -> tuple[Tensor, Tensor]:
    """The entry that ranks `zeros`-th (1-based) in ascending (score, |weight|, part, position).

    0.0 and -0.0 are equal, as floats are, and come back as 0.0.

    Args:
        scores: 1-D, all float32 or all float64, on one device, with at least one entry.
        weights: 1-D, one per part and as long, of any floating type.
        zeros: 1 to the number of entries.

    Returns:
        Its score (NaN if any score is) and |weight|, of the scores' type; and its position as each part sees it, int64:
        -1 before the part's first entry, the part's length beyond its last. Both on the scores' device.
    """
    device = scores[0].device
    if device.type != "cpu":
        with suppress(torch.OutOfMemoryError):  # sorting takes several times the memory of the scores
            return by_sorting(scores, weights, zeros)
    values, places = by_counting([part.cpu() for part in scores], [part.cpu() for part in weights], zeros)
    return values.to(device), places.to(device)


def by_sorting(scores: Sequence[Tensor], weights: Sequence[Tensor], zeros: int) -> tuple[Tensor, Tensor]:
    """`last_zero` by two sorts of all entries; nothing waits for the host."""
    score = torch.cat(list(scores)) + 0.0
    size = torch.cat([weight.abs().to(score.dtype) for weight in weights])
    order = size.sort(stable=True).indices
    last = order[score[order].sort(stable=True).indices][zeros - 1 : zeros]
    values = torch.where(score.isnan().any(), math.nan, torch.cat([score[last], size[last]]))
    lengths = torch.tensor([len(part) for part in scores], device=score.device)
    return values, torch.minimum((last - (lengths.cumsum(0) - lengths)).clamp(min=-1), lengths)


def by_counting(scores: Sequence[Tensor], weights: Sequence[Tensor], zeros: int) -> tuple[Tensor, Tensor]:
    """`last_zero` on the CPU: rank the scores, then |weight| in the tie, then positions among what is tied in both."""
    total, dtype = sum(map(len, scores)), scores[0].dtype
    positions = _sample(total)
    sample = _pick(scores, positions, dtype)
    every = np.ones(BLOCK, np.bool_)
    score, below, ties = _search(
        lambda: ((values, every[: len(values)]) for _, _, values in blocks(scores)), sample, zeros, total
    )
    last = [-1] * len(scores)
    if math.isnan(score):
        return scores[0].new_tensor([score, math.nan]), torch.tensor(last)

    left = zeros - below
    sample = np.abs(_pick(weights, positions[sample == score], dtype))
    size, below, _ = _search(lambda: (block[2:] for block in _tied(scores, weights, score)), sample, left, ties)
    left -= below
    for part, start, sizes, tied in _tied(scores, weights, score):
        level = np.flatnonzero((sizes == size) & tied)
        if len(level) >= left:
            # The parts before this one lie below the last zero, those after it above.
            last[: part + 1] = [*map(len, scores[:part]), start + int(level[left - 1])]
            break
        left -= len(level)
    return scores[0].new_tensor([score, size]), torch.tensor(last)


def blocks(parts: Sequence[Tensor]) -> Iterator[tuple[int, int, np.ndarray]]:
    """The blocks of all 1-D CPU tensors `parts`: number of the part, position of the first entry, values (a view)."""
    for number, part in enumerate(parts):
        values = part.numpy()
        for start in range(0, len(values), BLOCK):
            yield number, start, values[start : start + BLOCK]


def sizes_like(values: np.ndarray, weight: Tensor, start: int) -> np.ndarray:
    """|weight| of the entries from `start` on of a 1-D weight of any floating type, as many and of a type as `values`.

    numpy has no bf16; a block of the right type is not copied.
    """
    block = weight[start : start + len(values)].to(torch.from_numpy(values).dtype)
    sizes: np.ndarray = np.abs(block.numpy())
    return sizes


def _tied(
    scores: Sequence[Tensor], weights: Sequence[Tensor], score: float
) -> Iterator[tuple[int, int, np.ndarray, np.ndarray]]:
    """Of the blocks that have entries tied at `score`: part, start, |weights|, and which are tied."""
    for part, start, values in blocks(scores):
        tied = values == score
        if tied.any():
            yield part, start, sizes_like(values, weights[part], start), tied


def _search(
    read: Callable[[], Iterable[tuple[np.ndarray, ...]]], sample: np.ndarray, k: int, total: int
) -> tuple[float, int, int]:
    """The k-th smallest of `total` values, NaN if any is; and how many are below it, and how many equal to it.

    `read` gives the values block by block, and which of them count; `sample` holds some of those.
    """
    if np.isnan(sample).any():
        return math.nan, 0, 0
    sample = np.sort(sample)
    centre, deviation = len(sample) * k / total, math.sqrt(len(sample) * k / total * (1 - k / total))
    least, most, margin = -math.inf, math.inf, 3.0
    while True:
        slack = margin * (deviation + 1)
        first, last = math.floor(centre - slack), math.ceil(centre + slack)
        low = max(least, float(sample[first]) if first >= 0 else -math.inf)
        high = min(most, float(sample[last]) if last < len(sample) else math.inf)
        below = up_to = 0
        pieces = []
        for values, counts in read():
            below += int(np.count_nonzero((values < low) & counts))
            outside = values <= low
            up_to += int(np.count_nonzero(outside & counts))
            pieces.append(values.compress(~(outside | (values >= high)) & counts))  # any NaN, too
        inside = np.concatenate(pieces)
        if np.isnan(inside).any():
            return math.nan, 0, 0
        if below < k <= up_to:
            return low + 0.0, below, up_to - below
        if up_to < k <= up_to + len(inside):
            value = np.partition(inside, k - up_to - 1)[k - up_to - 1]
            below, ties = (int(np.count_nonzero(found)) for found in (inside < value, inside == value))
            return float(value) + 0.0, up_to + below, ties
        # The answer lies below the bracket, above it, or is tied with its upper end.
        least, most = (least, low) if k <= below else (high, most)
        margin *= 4


@lru_cache(maxsize=16)
def _sample(total: int) -> np.ndarray:
    """Sorted positions of a sample of `total` entries, one from each of as many strata; always the same.

    2·n^⅔ of n entries make the cost of the sample about that of gathering the bracket, whose share falls as 1/√size.
    """
    size = min(total, math.ceil(2 * total ** (2 / 3)))
    ends = np.arange(size + 1) * total // size
    positions: np.ndarray = np.random.default_rng(0).integers(ends[:-1], ends[1:])
    return positions


def _pick(parts: Sequence[Tensor], positions: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    """The entries at `positions` of all parts taken as one."""
    starts = np.cumsum([0, *map(len, parts)])
    cuts = np.split(positions, np.searchsorted(positions, starts[1:-1]))
    places = [torch.from_numpy(cut - start) for cut, start in zip(cuts, starts[:-1], strict=True)]
    # numpy's own `take` knows no bf16
    picked = torch.cat([part.index_select(0, place) for part, place in zip(parts, places, strict=True)])
    array: np.ndarray = picked.to(dtype).numpy()
    return array
