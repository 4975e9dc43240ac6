"""The k-th smallest of many numbers: exact, in time proportional to their number, without a copy of them all."""

import struct
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

_DIGIT = 16
_BINS = 1 << _DIGIT
# Keys are made piece by piece, so that a piece and its temporaries stay in the processor's cache.
_PIECE = 1 << 18


def kth_smallest(parts: Sequence[Tensor], k: int) -> float:
    """The k-th smallest value (1-based) over all `parts` together.

    A radix search. The bits of a float, read as an integer, are ordered like the float itself; each round counts the
    next 16-bit digit of the numbers that share the leading digits found so far. Ties, however many, cost nothing.

    Args:
        parts: tensors of any shape, all float32 or all float64, none of their values NaN.
        k: 1 to the number of values.
    """
    bits = parts[0].element_size() * 8
    prefix = 0
    for shift in range(bits - _DIGIT, -1, -_DIGIT):
        leading = shift == bits - _DIGIT
        counts = torch.zeros(_BINS, dtype=torch.int64, device=parts[0].device)
        for keys in _ordered_keys(parts):
            if leading:
                digits = (keys >> shift) + _BINS // 2  # the leading digit carries the sign
            else:
                digits = (keys[keys >> (shift + _DIGIT) == prefix] >> shift) & (_BINS - 1)
            counts += torch.bincount(digits, minlength=_BINS)
        up_to = counts.cumsum(0)
        digit = int(torch.searchsorted(up_to, k))
        k -= int(up_to[digit] - counts[digit])
        prefix = digit - _BINS // 2 if leading else (prefix << _DIGIT) | digit
    return _value(prefix, bits)


def _ordered_keys(parts: Sequence[Tensor]) -> Iterator[Tensor]:
    """Signed integers in the order of the floats, a piece at a time.

    Negative floats order backwards, so their bits (all but the sign) are inverted.
    """
    integer = {4: torch.int32, 8: torch.int64}[parts[0].element_size()]
    for part in parts:
        for piece in part.detach().reshape(-1).split(_PIECE):
            keys = piece.view(integer)
            yield keys ^ ((keys >> (8 * piece.element_size() - 1)) & torch.iinfo(integer).max)


def _value(key: int, bits: int) -> float:
    """The float of an ordered key (inverting the bits of negative keys undoes itself)."""
    integer, floating = ("<i", "<f") if bits == 32 else ("<q", "<d")
    if key < 0:
        key ^= (1 << (bits - 1)) - 1
    (value,) = struct.unpack(floating, struct.pack(integer, key))
    return float(value)
