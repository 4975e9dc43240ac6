"""Pickles that others published: plain values and numpy arrays, read within limits and without running code."""

import codecs
import math
import pickle
import pickletools
import re
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdvqa.errors import InputError

_LARGEST = 1 << 30  # bytes of a pickle; the largest that is read has the cached targets of all questions
_DEEPEST = 100  # levels of values inside each other
_REUSE = 32  # bytes of values that references repeat, for each byte of the pickle


def load_pickle(path: str | Path) -> Any:
    """What a pickle of plain values and numpy arrays holds (pickles written by Python 2 too).

    Raises:
        InputError: the file is missing, is no pickle or cut off, asks for any class or function but numpy's for arrays,
            or would take far more time or memory than its size allows for.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file")
    if not path.is_file() or path.stat().st_size > _LARGEST:
        raise InputError(f"{path}: cannot be read (not a file of at most {_LARGEST:,} bytes)")
    try:
        return unpickle(path.read_bytes(), str(path))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def unpickle(content: bytes, where: str) -> Any:
    """As `load_pickle`, from memory; `where` names it in errors."""
    try:
        _check(content)
        return _Unpickler(BytesIO(content), encoding="latin1").load()
    except Exception as error:  # broken pickles raise whatever their instructions happen to raise
        what = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{where}: not a pickle of plain values and arrays ({what:.200}); nothing was run") from None


# --- instructions, before any is carried out -----------------------------------------------------------------------

_REFUSED = (
    *("PERSID", "BINPERSID", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"),
    *("NEXT_BUFFER", "READONLY_BUFFER", "DUP"),
)
_OPCODES = {one.code.encode("latin1"): one for one in pickletools.opcodes if one.name not in _REFUSED}

_CHANGING = ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD")  # add to a value instead of making one


class _Value:
    """What an instruction would make: its bytes and depth, all that is in it included."""

    __slots__ = ("depth", "reused", "size")

    def __init__(self, size: int) -> None:
        self.size, self.depth, self.reused = size, 0, False


def _check(content: bytes) -> None:
    """Follow the instructions by the sizes of what they would make.

    Raises:
        ValueError: an instruction could run code, or would take time, memory or depth out of proportion. What is used
            again must not change afterwards, so that sizes stay true and nothing holds itself.
    """
    file, allowance = BytesIO(content), _REUSE * len(content)
    stack: list[_Value] = []
    marks: list[int] = []
    memo: dict[int, _Value] = {}
    while (code := file.read(1)) != b".":
        if code not in _OPCODES:
            raise ValueError(f"it has the instruction {code!r}" if code else "it is cut off")
        opcode = _OPCODES[code]
        name = opcode.name
        argument: Any = opcode.arg and (_quoted if name == "STRING" else opcode.arg.reader)(file)
        if name == "MARK":
            marks.append(len(stack))
        elif name == "POP" and marks and marks[-1] == len(stack):
            marks.pop()
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name.endswith("PUT"):
            if argument > len(content):
                raise ValueError("it numbers more values than it has")
            memo[argument] = stack[-1]
        elif name.endswith("GET"):
            stack.append(memo[argument])
            stack[-1].reused = True
            allowance -= stack[-1].size
            if allowance < 0:
                raise ValueError("it uses the same values again and again")
        elif opcode.stack_before:
            start = len(stack) - len(opcode.stack_before)
            if pickletools.markobject in opcode.stack_before:
                start = marks.pop() + 2 - len(opcode.stack_before)
            if start < (marks[-1] if marks else 0):
                raise ValueError("it takes more values than there are")
            taken = stack[start:]
            del stack[start:]
            if opcode.stack_after:
                stack.append(_made(taken, name in _CHANGING))
        elif opcode.stack_after:
            stack.append(_Value(len(argument) if isinstance(argument, str | bytes) else 1))


def _made(values: list[_Value], changes_first: bool) -> _Value:
    """A value with these in it: a new one, or the first of them with the others added."""
    value = values.pop(0) if changes_first else _Value(1)
    if value.reused and values and changes_first:
        raise ValueError("it changes an object that it uses twice")
    for part in values:
        value.size += part.size
        value.depth = max(value.depth, part.depth + 1)
    if value.depth > _DEEPEST:
        raise ValueError(f"it holds more than {_DEEPEST} values in each other")
    return value


def _quoted(file: Any) -> str:
    """Text of protocol 0; Python 2 writes the bytes of arrays so, which `pickletools` would take for ASCII."""
    text = pickletools.read_stringnl(file, decode=False, stripquotes=True)
    return codecs.escape_decode(text)[0].decode("latin1")


# --- what the names in a pickle mean ------------------------------------------------------------------------------


class _Unpickler(pickle.Unpickler):
    """Takes every class and function from `_FUNCTIONS`; nothing is imported."""

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy._core", "numpy.core").replace("__builtin__", "builtins")
        if (module, name) not in _FUNCTIONS:
            raise ValueError(f"it asks for {module}.{name}")
        return _FUNCTIONS[module, name]


class _Function:
    """Replaces the function or class that a pickle names; a pickle can call it, and nothing else."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *arguments: Any) -> Any:
        return self._call(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise ValueError("it alters a function")


class _Type:
    """A numpy type: bool, number, text or object, and its byte order; no fields, no flags."""

    def __init__(self, name: str, align: Any = False, copy: Any = True) -> None:
        if not re.fullmatch(r"b1|[iu][1248]|f[248]|c8|c16|[SU]\d{1,9}|O\d?", name):
            raise ValueError(f"it holds arrays of type {name!r:.40}")
        self.dtype: np.dtype[Any] = np.dtype("O" if name[0] == "O" else name)

    def __setstate__(self, state: Any) -> None:
        _, order, subarray, names, fields, *_ = state
        if (subarray, names, fields) != (None, None, None) or order not in ("<", ">", "=", "|"):
            raise ValueError("it holds arrays of structured type")
        self.dtype = self.dtype.newbyteorder(order)


class _Array(np.ndarray):
    """An array that takes its content once, of the size that its shape and type say."""

    complete = False

    def __setstate__(self, state: Any) -> None:
        shape, kind, fortran, content = state[-4:]  # before them is a version
        content = _as_bytes(content)
        length = math.prod(_checked_shape(shape)) * (1 if kind.dtype.hasobject else kind.dtype.itemsize)
        if type(content) is not (list if kind.dtype.hasobject else bytes) or len(content) != length or self.complete:
            raise ValueError(f"it holds an array of {len(content)} items or bytes instead of {length}")
        super().__setstate__((1, shape, kind.dtype, bool(fortran), content))  # type: ignore[arg-type]
        self.complete = True


def _checked_shape(shape: Any) -> tuple[int, ...]:
    if not isinstance(shape, tuple) or not all(type(length) is int and length >= 0 for length in shape):
        raise ValueError("it holds an array without a proper shape")
    return shape


def _scalar(kind: _Type, content: bytes | str) -> Any:
    (value,) = np.frombuffer(_as_bytes(content), kind.dtype)  # refuses the type object
    return value


def _from_buffer(content: bytes, kind: _Type, shape: Any, order: str, axes: Any = None) -> NDArray[Any]:
    array = np.frombuffer(content, kind.dtype)
    if order == "K" and axes is not None:
        return array.reshape(_checked_shape(shape)).transpose(axes)
    return array.reshape(_checked_shape(shape), order="F" if order == "F" else "C")


def _encode(text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise ValueError(f"it encodes text as {encoding!r:.40}")
    return text.encode("latin1")


def _as_bytes(content: Any) -> Any:
    """Bytes, which Python 2 writes as text."""
    return content.encode("latin1") if isinstance(content, str) else content


_FUNCTIONS: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): None,  # the first argument of _reconstruct, which is always this one
    ("numpy", "dtype"): _Function(_Type),
    ("numpy.core.multiarray", "_reconstruct"): _Function(lambda subtype, shape, kind: _Array((0,), "b")),
    ("numpy.core.multiarray", "scalar"): _Function(_scalar),
    ("numpy.core.numeric", "_frombuffer"): _Function(_from_buffer),
    ("_codecs", "encode"): _Function(_encode),  # bytes, in protocols before 3
    ("builtins", "bytes"): _Function(lambda: b""),  # no bytes, in protocols before 3
    ("builtins", "set"): _Function(lambda items=(): set(items)),
    ("builtins", "frozenset"): _Function(lambda items=(): frozenset(items)),
    ("collections", "OrderedDict"): _Function(lambda pairs=(): dict(pairs)),
}
