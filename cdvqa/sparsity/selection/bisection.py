"""The last zero of a ranking on a GPU: by counting alone, so that nothing waits for the host.

Bisection over the bits of the value sought, in as many rounds as it has bits. A round compares and counts: it costs the
same whatever the distribution, ties included, and needs no memory beyond a few temporaries of one matrix.
"""

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor


def kth_smallest(parts: Sequence[Tensor], k: int) -> Tensor:
    """As `kth.kth_smallest`, on any device."""
    value = _smallest(parts[0], lambda bound: _total((part <= bound).sum() for part in parts) >= k)
    broken = torch.stack([part.isnan().any() for part in parts]).any()
    return torch.where(broken, math.nan, value)


def last_zero(scores: Sequence[Tensor], weights: Sequence[Tensor], zeros: int) -> tuple[Tensor, Tensor]:
    """As `kth.last_zero`, on any device."""
    pairs = list(zip(scores, weights, strict=True))
    score = kth_smallest(scores, zeros)
    left = zeros - _total((part < score).sum() for part in scores)

    def tied(test: Callable[[Tensor], Tensor]) -> Iterable[Tensor]:
        return ((part == score) & test(weight.abs().to(part.dtype)) for part, weight in pairs)

    size = _smallest(scores[0], lambda bound: _total(level.sum() for level in tied(lambda s: s <= bound)) >= left)
    left = left - _total(level.sum() for level in tied(lambda sizes: sizes < size))
    places = []
    for level in tied(lambda sizes: sizes == size):
        # The last zero stands where the count reaches `left`; nowhere in a part that lies below or above it.
        places.append(torch.where(left > 0, (level.cumsum(0) < left).sum(), -1))
        left = left - level.sum()
    return torch.stack([score, size]), torch.stack(places)


def _smallest(like: Tensor, reached: Callable[[Tensor], Tensor]) -> Tensor:
    """The smallest float (of the type and device of `like`) from which on `reached` holds; infinity at the latest."""
    integer = {4: torch.int32, 8: torch.int64}[like.element_size()]
    # Integers in the order of the floats: the bits of a negative float, all but the sign, are inverted.
    high = torch.full((), math.inf, dtype=like.dtype, device=like.device).view(integer)
    low = -high - 1

    def value(key: Tensor) -> Tensor:
        return torch.where(key < 0, key ^ torch.iinfo(integer).max, key).view(like.dtype)

    for _ in range(8 * like.element_size()):
        middle = (low & high) + ((low ^ high) >> 1)  # the mean, rounded down, without overflow
        enough = reached(value(middle))
        low, high = torch.where(enough, low, middle + 1), torch.where(enough, middle, high)
    return value(high) + 0.0


def _total(counts: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(counts)).sum()
