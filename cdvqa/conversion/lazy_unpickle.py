"""Pickles that do not fit the memory: everything is built but the content of arrays, which stays in the file."""

import math
import pickle
from collections.abc import Callable
from struct import unpack
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from cdvqa.data.pickles import STAND_INS, PickledType, StandIn, array_state, checked_shape, find_stand_in

ReadAt = Callable[[int, int], bytes]
"""Gives the bytes at an offset: (offset, length)."""
_LONGEST_TEXT = 255  # bytes of a text that is read: names and keys
_LONGEST_READ = 1 << 16  # bytes of anything else that is not skipped


class Span:
    """Bytes that stay in the file.

    Attributes:
        escaped: they are latin-1 text in UTF-8, as protocols before 3 write bytes.
    """

    __slots__ = ("escaped", "length", "offset", "read_at")

    def __init__(self, read_at: ReadAt, offset: int, length: int, escaped: bool = False) -> None:
        self.read_at = read_at
        self.offset = offset
        self.length = length
        self.escaped = escaped

    def read(self) -> bytes:
        content = self.read_at(self.offset, self.length)
        if len(content) != self.length:
            raise EOFError("the file ends within an array")
        return content.decode().encode("latin1") if self.escaped else content


class LazyArray:
    """An array whose content stays in the file until `read`."""

    __slots__ = ("dtype", "fortran", "shape", "span")

    def __init__(self, span: Span, shape: tuple[int, ...], dtype: np.dtype[Any], fortran: bool = False) -> None:
        if not span.escaped and span.length != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"an array {shape} of {dtype} has {span.length} bytes")
        self.span = span
        self.shape = shape
        self.dtype = dtype
        self.fortran = fortran

    def read(self) -> NDArray[Any]:
        """The array, read-only.

        Raises:
            EOFError, ValueError: it is cut off, or not as long as its shape says.
        """
        return np.frombuffer(self.span.read(), self.dtype).reshape(self.shape, order="F" if self.fortran else "C")


class LazyUnpickler(pickle._Unpickler):  # type: ignore[name-defined]
    """Builds what `RestrictedUnpickler` builds, with a `LazyArray` for every array and a `Span` for long text or bytes.

    Frames of protocol 4 and later only say how much could be read at once; they are passed over, so that every value
    is found at its offset in the file.

    Args:
        file: the pickle, at its first byte.
        size: where the file ends.
        read_at: reads the content of arrays later; offsets are those of `file`.
        progress: told of the offset of each value that is passed over.
    """

    append: Callable[[Any], None]
    stack: list[Any]

    def __init__(
        self, file: BinaryIO, size: int, read_at: ReadAt, progress: Callable[[int], None] = lambda offset: None
    ) -> None:
        super().__init__(file, encoding="latin1")
        self.memo = _Memo()
        self._file, self._size, self._read_at, self._progress = file, size, read_at, progress
        self._file_read, self._file_readline = self._read_short, self._readline_short

    def find_class(self, module: str, name: str) -> Any:
        return find_stand_in(_LAZY_STAND_INS, module, name)

    def _read_short(self, length: int) -> bytes:
        if length > _LONGEST_READ:
            raise pickle.UnpicklingError(f"it holds a value of {length} bytes")
        return self._file.read(length)

    def _readline_short(self) -> bytes:
        line = self._file.readline(_LONGEST_READ)
        if not line.endswith(b"\n"):
            raise pickle.UnpicklingError("it is cut off or of protocol 0; write it with protocol 4")
        return line

    def _skip(self, length: int, escaped: bool = False) -> Span:
        offset = self._file.tell()
        if not 0 <= length <= self._size - offset:
            raise EOFError("the file ends within an array; fetch it again")
        self._file.seek(length, 1)
        self._progress(offset + length)
        return Span(self._read_at, offset, length, escaped)

    def _bytes(self, length: int) -> None:
        self.append(self._skip(length))

    def _text(self, length: int, escaped: bool) -> None:
        if length > _LONGEST_TEXT:
            self.append(self._skip(length, escaped))
            return
        span = Span(self._read_at, self._file.tell(), length, escaped)
        text = _Text(self._read_short(length).decode("utf-8" if escaped else "latin1"))
        text.span = span
        self.append(text)

    def _global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.append(self.find_class(str(module), str(name)))

    dispatch = pickle._Unpickler.dispatch | {  # type: ignore[attr-defined]
        pickle.FRAME[0]: lambda self: self.read(8),
        pickle.STACK_GLOBAL[0]: lambda self: self._global(),  # wants text and nothing derived from it otherwise
        pickle.SHORT_BINBYTES[0]: lambda self: self._bytes(*self.read(1)),
        pickle.BINBYTES[0]: lambda self: self._bytes(*unpack("<I", self.read(4))),
        pickle.BINBYTES8[0]: lambda self: self._bytes(*unpack("<Q", self.read(8))),
        pickle.BYTEARRAY8[0]: lambda self: self._bytes(*unpack("<Q", self.read(8))),
        pickle.SHORT_BINSTRING[0]: lambda self: self._text(*self.read(1), escaped=False),
        pickle.BINSTRING[0]: lambda self: self._text(*unpack("<i", self.read(4)), escaped=False),
        pickle.SHORT_BINUNICODE[0]: lambda self: self._text(*self.read(1), escaped=True),
        pickle.BINUNICODE[0]: lambda self: self._text(*unpack("<I", self.read(4)), escaped=True),
        pickle.BINUNICODE8[0]: lambda self: self._text(*unpack("<Q", self.read(8)), escaped=True),
    }


class _Text(str):
    """A short text that may turn out to be the content of an array."""

    __slots__ = ("span",)
    span: Span


def only_object(value: Any) -> Any:
    """What an array of objects without axes holds, as numpy pickles a single object."""
    if not isinstance(value, _Reconstructed) or len(value.objects) != 1:
        raise pickle.UnpicklingError("it does not hold a single object")
    return value.objects[0]


class _Memo(list[Any]):
    """The values that a pickle refers back to: a tenth of a dict's size for the millions that features have."""

    def __setitem__(self, place: Any, value: Any) -> None:
        if place > len(self) + 1:  # they are numbered from 0, or from 1 by Python 2
            raise pickle.UnpicklingError("it numbers its values out of order")
        self.extend([None] * (place + 1 - len(self)))
        super().__setitem__(place, value)


def _span(content: Any) -> Span:
    span = content.span if isinstance(content, _Text) else content
    if not isinstance(span, Span):
        raise pickle.UnpicklingError("it holds an array without content, or is of protocol 0; write it with protocol 4")
    return span


def _encode(text: Any, encoding: str) -> Span:
    return _span(text)


def _scalar(kind: PickledType, content: Any) -> Any:
    (value,) = np.frombuffer(_span(content).read(), kind.dtype)
    return value


class _Reconstructed(LazyArray):
    """A `LazyArray` whose content is named only after it has been made."""

    __slots__ = ("objects",)

    def __init__(self, subtype: Any, shape: Any, kind: Any) -> None:
        super().__init__(Span(lambda offset, length: b"", 0, 0), (0,), np.dtype("b"))
        self.objects: list[Any] = []

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        shape, dtype, fortran, content = array_state(state)
        if isinstance(content, list):
            self.objects = content
        else:
            super().__init__(_span(content), shape, dtype, fortran)


def _from_buffer(content: Any, kind: PickledType, shape: Any, order: str, axes: Any = None) -> LazyArray:
    if order not in ("C", "F"):
        raise pickle.UnpicklingError("it holds an array in an order of its own")
    return LazyArray(_span(content), checked_shape(shape), kind.dtype, order == "F")


_LAZY_STAND_INS = STAND_INS | {
    ("numpy.core.multiarray", "_reconstruct"): StandIn(_Reconstructed),
    ("numpy.core.multiarray", "scalar"): StandIn(_scalar),
    ("numpy.core.numeric", "_frombuffer"): StandIn(_from_buffer),
    ("_codecs", "encode"): StandIn(_encode),
}
