"""The last zero of a ranking on a GPU, by sorting.

Up to `LIMIT` scores are sorted as one tensor, and nothing waits for the host. Of more scores, only those in a bracket
around the rank are put together, and the host reads a few counts of each matrix.
"""

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

LIMIT = 1 << 26
"""Scores that are put together in one tensor, 256 MiB of fp32."""


def kth_smallest(parts: Sequence[Tensor], k: int) -> Tensor:
    """As `kth.kth_smallest`, on any device."""
    broken = torch.stack([part.isnan().any() for part in parts]).any()
    if sum(map(len, parts)) > LIMIT:
        value = parts[0].new_tensor(_kth(lambda: parts, k)[0])
    else:
        value = torch.cat(list(parts)).sort().values[k - 1] + 0.0  # -0.0 is 0.0
    return torch.where(broken, math.nan, value)


def last_zero(scores: Sequence[Tensor], weights: Sequence[Tensor], zeros: int) -> tuple[Tensor, Tensor]:
    """As `kth.last_zero`, on any device."""
    if sum(map(len, scores)) > LIMIT:
        return _last_of_many(scores, weights, zeros)
    score = torch.cat(list(scores)) + 0.0
    size = torch.cat([weight.abs().to(score.dtype) for weight in weights])
    order = size.sort(stable=True).indices
    last = order[score[order].sort(stable=True).indices][zeros - 1 : zeros]  # by (score, size, position)
    values = torch.where(score.isnan().any(), math.nan, torch.cat([score[last], size[last]]))
    lengths = torch.tensor([len(part) for part in scores], device=score.device)
    return values, torch.minimum((last - (lengths.cumsum(0) - lengths)).clamp(min=-1), lengths)


def _last_of_many(scores: Sequence[Tensor], weights: Sequence[Tensor], zeros: int) -> tuple[Tensor, Tensor]:
    """`last_zero` without a copy of all scores: rank the scores, then |weight| in the tie, then positions."""
    value, left = float(kth_smallest(scores, zeros)), zeros
    nowhere = torch.full((len(scores),), -1, device=scores[0].device)
    if math.isnan(value):
        return scores[0].new_full((2,), math.nan), nowhere
    left -= int(sum((part < value).sum() for part in scores))

    def tied() -> Iterable[Tensor]:
        return (w[s == value].abs().to(s.dtype) for s, w in zip(scores, weights, strict=True))

    size, below = _kth(tied, left)
    left -= below
    for part, (s, w) in enumerate(zip(scores, weights, strict=True)):
        level = (s == value) & (w.abs().to(s.dtype) == size)
        count = int(level.sum())
        if count >= left:  # parts before this one lie below the last zero, those after it above
            nowhere[:part] = torch.tensor([len(before) for before in scores[:part]], device=nowhere.device)
            nowhere[part] = level.nonzero()[left - 1, 0]
            break
        left -= count
    return scores[0].new_tensor([value, size]), nowhere


def _kth(read: Callable[[], Iterable[Tensor]], k: int) -> tuple[float, int]:
    """The k-th smallest of the values that `read` gives, part by part, and how many are below it."""
    total = sum(map(len, read()))
    step = math.floor(total ** (1 / 3) / 2) | 1  # about 2·n^⅔ of n values give the bracket
    sample = torch.cat([part[::step] for part in read()]).sort().values
    centre, least, most, margin = len(sample) * k / total, -math.inf, math.inf, 2.0
    while True:
        slack = margin * (math.sqrt(len(sample)) + 1)
        first, last = math.floor(centre - slack), math.ceil(centre + slack)
        low = max(least, float(sample[first]) if first >= 0 else -math.inf)
        high = min(most, float(sample[last]) if last < len(sample) else math.inf)
        below = up_to = 0
        inside = []
        for part in read():
            below += int((part < low).sum())
            up_to += int((part <= low).sum())
            inside.append(part[(part > low) & (part < high)])  # ties with the ends, however many, are only counted
        if below < k <= up_to:
            return low + 0.0, below
        between = torch.cat(inside)
        if up_to < k <= up_to + len(between):
            value = float(between.sort().values[k - up_to - 1]) + 0.0
            return value, up_to + int((between < value).sum())
        # The answer lies below the bracket, above it, or is tied with its upper end.
        least, most = (least, low) if k <= below else (high, most)
        margin *= 4
