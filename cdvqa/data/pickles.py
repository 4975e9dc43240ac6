"""Pickles that others published, read without running the code that a pickle can hold."""

import math
import pickle
import re
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from cdvqa.errors import InputError


class RestrictedUnpickler(pickle.Unpickler):
    """Builds plain Python values and numpy arrays; refuses every other class or function by name.

    Nothing of numpy is called as the pickle says: numpy trusts the states of its pickled types and arrays, so that a
    forged one reaches memory that is not its own. Stand-ins take their place and pass on what they have checked.
    A pickle made to fill the memory can still do that.
    """

    def find_class(self, module: str, name: str) -> Any:
        return find_stand_in(STAND_INS, module, name)


def load_pickle(path: str | Path) -> Any:
    """What a pickle of plain values and numpy arrays holds (pickles written by Python 2 too).

    Raises:
        InputError: the file is missing, is no pickle or cut off, or asks for any other class or function.
    """
    try:
        with Path(path).open("rb") as file:
            return load_restricted(file, str(path))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def unpickle(content: bytes, where: str) -> Any:
    """As `load_pickle`, from memory; `where` names it in errors."""
    return load_restricted(BytesIO(content), where)


def load_restricted(file: BinaryIO, where: str) -> Any:
    """As `load_pickle`, from an open file on; `where` names it in errors."""
    try:
        return RestrictedUnpickler(file, encoding="latin1").load()
    except OSError:
        raise
    except Exception as error:  # broken pickles raise whatever their instructions happen to raise
        raise refused(where, error) from None


def refused(where: str, error: Exception) -> InputError:
    """The error for a pickle that failed with `error`."""
    what = " ".join(str(error).split()) or type(error).__name__
    return InputError(f"{where}: not a pickle of plain values and arrays ({what}); it was not read any further")


class StandIn:
    """What a name in a pickle gives instead of the function or class of that name: callable and nothing more."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *arguments: Any) -> Any:
        return self._call(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it alters a function")


def find_stand_in(stand_ins: dict[tuple[str, str], Any], module: str, name: str) -> Any:
    """The stand-in of a name under any of the modules that Python 2 and the versions of numpy keep it in."""
    module = module.replace("numpy._core", "numpy.core").replace("__builtin__", "builtins")
    if (module, name) not in stand_ins:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")
    return stand_ins[module, name]


class PickledType:
    """Stands in for `numpy.dtype`: bool, number, text or object, and its byte order; no fields, no flags."""

    __slots__ = ("dtype",)

    def __init__(self, name: str, align: Any = False, copy: Any = True) -> None:
        if not re.fullmatch(r"b1|[iu][1248]|f[248]|c8|c16|[SU]\d{1,9}|O\d?", name):
            raise pickle.UnpicklingError(f"it holds arrays of type {name!r:.40}")
        self.dtype: np.dtype[Any] = np.dtype("O" if name[0] == "O" else name)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, order, subarray, names, fields = state[:5]
        if (subarray, names, fields) != (None, None, None) or order not in ("<", ">", "=", "|"):
            raise pickle.UnpicklingError("it holds arrays of structured type")
        self.dtype = self.dtype.newbyteorder(order)


def array_state(state: tuple[Any, ...]) -> tuple[tuple[int, ...], np.dtype[Any], bool, Any]:
    """Shape, type, whether in Fortran order, and content of the state of a pickled array, checked but for its size."""
    shape, kind, fortran, content = state[-4:]  # before them stands a version
    return checked_shape(shape), kind.dtype, bool(fortran), content


def checked_shape(shape: Any) -> tuple[int, ...]:
    if not isinstance(shape, tuple) or not all(type(length) is int and length >= 0 for length in shape):
        raise pickle.UnpicklingError("it holds an array without a proper shape")
    return shape


class _Restored(np.ndarray):
    """An array that takes only a state of the size that its shape and type say."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:  # type: ignore[override]
        shape, dtype, fortran, content = array_state(state)
        if isinstance(content, str):  # as Python 2 writes bytes
            content = content.encode("latin1")
        length = math.prod(shape) * (1 if dtype.hasobject else dtype.itemsize)
        if type(content) is not (list if dtype.hasobject else bytes) or len(content) != length:
            raise pickle.UnpicklingError(f"it holds an array of {len(content)} items or bytes instead of {length}")
        super().__setstate__((1, shape, dtype, fortran, content))  # type: ignore[arg-type]


def _scalar(kind: PickledType, content: bytes | str) -> Any:
    (value,) = np.frombuffer(_as_bytes(content), kind.dtype)  # refuses the type object
    return value


def _from_buffer(content: bytes, kind: PickledType, shape: Any, order: str, axes: Any = None) -> NDArray[Any]:
    array = np.frombuffer(content, kind.dtype)
    if order == "K" and axes is not None:
        return array.reshape(checked_shape(shape)).transpose(axes)
    return array.reshape(checked_shape(shape), order="F" if order == "F" else "C")


def _encode(text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"it encodes text as {encoding!r:.40}")
    return text.encode("latin1")


def _as_bytes(content: bytes | str) -> bytes:
    return content.encode("latin1") if isinstance(content, str) else content


STAND_INS: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): None,  # the first argument of _reconstruct, which is always this one
    ("numpy", "dtype"): StandIn(PickledType),
    ("numpy.core.multiarray", "_reconstruct"): StandIn(lambda subtype, shape, kind: _Restored((0,), "b")),
    ("numpy.core.multiarray", "scalar"): StandIn(_scalar),
    ("numpy.core.numeric", "_frombuffer"): StandIn(_from_buffer),
    ("_codecs", "encode"): StandIn(_encode),  # bytes, in protocols before 3
    ("builtins", "bytes"): StandIn(lambda: b""),  # no bytes, in protocols before 3
    ("builtins", "set"): StandIn(set),
    ("builtins", "frozenset"): StandIn(frozenset),
    ("collections", "OrderedDict"): StandIn(dict),
}
