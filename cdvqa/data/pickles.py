"""Pickles that others published, read by a small loader that runs no code and has limits."""

import codecs
import math
import pickletools
import re
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from cdvqa.errors import InputError

_LARGEST = 1 << 30  # bytes of a pickle; the largest that is read has the cached targets of all questions
_DEEPEST = 40  # containers in each other
_SHARED = 16  # items of a tuple that may be used more than once


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
        value = _Loader(content).load()
        _check_depth(value)
    except Exception as error:  # broken pickles raise whatever their instructions happen to raise
        what = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{where}: not a pickle of plain values and arrays ({what:.200}); nothing was run") from None
    return value


def _check_depth(value: Any) -> None:
    """Raise ValueError for containers so deep in each other that what walks through them would fail."""
    level = [value]
    for _ in range(_DEEPEST):
        level = [item for holder in level for item in _items(holder) if isinstance(item, _CONTAINERS)]
        if not level:
            return
    raise ValueError(f"it holds more than {_DEEPEST} containers in each other")


def _items(holder: Any) -> Any:
    if isinstance(holder, dict):
        return holder.values()
    if isinstance(holder, np.ndarray):
        return holder.ravel().tolist() if holder.dtype.hasobject else ()
    return holder if isinstance(holder, _CONTAINERS) else ()


class _Loader:
    """Builds plain values and numpy arrays from a pickle's instructions.

    No container is used twice, and keys are plain: so nothing can grow faster than the pickle or take long to hash.
    """

    def __init__(self, content: bytes) -> None:
        self.file = BytesIO(content)
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.allowance = 4 * len(content) + 1024  # bytes that may be copied

    def load(self) -> Any:
        read = self.file.read
        while (code := read(1)) != b".":
            if code not in _INSTRUCTIONS:
                raise ValueError(f"it has the instruction {code!r}" if code else "it is cut off")
            argument, carry_out = _INSTRUCTIONS[code]
            carry_out(self, argument and argument(self.file))
        (value,) = self.stack
        return value

    def pop(self, count: int) -> list[Any]:
        if count > len(self.stack) - (self.marks[-1] if self.marks else 0):
            raise ValueError("it takes more values than there are")
        taken = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return taken

    def pop_mark(self) -> list[Any]:
        start = self.marks.pop()
        taken = self.stack[start:]
        del self.stack[start:]
        return taken

    def put(self, number: int) -> None:
        self.memo[number] = self.stack[-1]

    def get(self, number: int) -> None:
        value = self.memo[number]
        kind = type(value)
        if kind is tuple and (len(value) > _SHARED or not all(isinstance(item, _PLAIN) for item in value)):
            raise ValueError("it uses a tuple twice that is not small and plain")
        if kind in (list, dict, set, frozenset) or (isinstance(value, _Array) and not value.sharable):
            raise ValueError(f"it uses a {kind.__name__} twice")
        self.stack.append(value)

    def spend(self, count: int) -> None:
        self.allowance -= count
        if self.allowance < 0:
            raise ValueError("it uses the same bytes again and again")

    def append(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise ValueError("it appends to what is no list")
        target.extend(items)

    def add(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not set:
            raise ValueError("it adds to what is no set")
        target.update(_keys(items))

    def new_dict(self, items: list[Any]) -> None:
        self.stack.append({})
        self.set_items(items)

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict or len(items) % 2:
            raise ValueError("it sets items of what is no dict")
        target.update(zip(_keys(items[::2]), items[1::2], strict=True))

    def find(self, module: str, name: str) -> None:
        module = module.replace("numpy._core", "numpy.core").replace("__builtin__", "builtins")
        if (module, name) not in _FUNCTIONS:
            raise ValueError(f"it asks for {module}.{name}")
        self.stack.append(_FUNCTIONS[module, name])

    def reduce(self) -> None:
        function, arguments = self.pop(2)
        if not isinstance(function, _Function) or type(arguments) is not tuple:
            raise ValueError("it calls what is no function")
        self.stack.append(function.call(self, *arguments))

    def build(self) -> None:
        target, state = self.pop(2)
        if not isinstance(target, _Array | _Type):
            raise ValueError("it alters a function" if isinstance(target, _Function) else "it alters a plain value")
        target.set_state(self, *state)
        self.stack.append(target)


class _Type:
    """A numpy type: bool, number, text or object, and its byte order; no fields, no flags."""

    def __init__(self, loader: _Loader, name: str, align: Any = False, copy: Any = True) -> None:
        if not re.fullmatch(r"b1|[iu][1248]|f[248]|c8|c16|[SU]\d{1,9}|O\d?", name):
            raise ValueError(f"it holds arrays of type {name!r:.40}")
        self.dtype: np.dtype[Any] = np.dtype("O" if name[0] == "O" else name)

    def set_state(
        self, loader: _Loader, version: int, order: str, subarray: Any, names: Any, fields: Any, *_: Any
    ) -> None:
        if (subarray, names, fields) != (None, None, None) or order not in ("<", ">", "=", "|"):
            raise ValueError("it holds arrays of structured type")
        self.dtype = self.dtype.newbyteorder(order)  # type: ignore[arg-type]


class _Array(np.ndarray):
    """An array that takes its content once, of the size that its shape and type say."""

    sharable = False

    def set_state(self, loader: _Loader, *state: Any) -> None:
        shape, kind, fortran, content = state[-4:]  # before them is a version
        content = _as_bytes(content)  # Python 2 writes bytes as text
        if kind.dtype.hasobject and any(isinstance(item, np.ndarray) and item.dtype.hasobject for item in content):
            raise ValueError("it holds arrays of objects in each other")  # which numpy frees one inside the other
        loader.spend(len(content))
        length = math.prod(_checked_shape(shape)) * (1 if kind.dtype.hasobject else kind.dtype.itemsize)
        if type(content) is not (list if kind.dtype.hasobject else bytes) or len(content) != length or self.sharable:
            raise ValueError(f"it holds an array of {len(content)} items or bytes instead of {length}")
        self.__setstate__((1, shape, kind.dtype, bool(fortran), content))  # type: ignore[arg-type]
        self.sharable = not kind.dtype.hasobject


class _Function:
    """What a name in a pickle gives in place of the function or class of that name."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self.call = call


def _checked_shape(shape: Any) -> tuple[int, ...]:
    if not isinstance(shape, tuple) or not all(type(length) is int and length >= 0 for length in shape):
        raise ValueError("it holds an array without a proper shape")
    return shape


def _scalar(loader: _Loader, kind: _Type, content: bytes | str) -> Any:
    loader.spend(len(content))
    (value,) = np.frombuffer(_as_bytes(content), kind.dtype)  # refuses the type object
    return value


def _from_buffer(
    loader: _Loader, content: bytes, kind: _Type, shape: Any, order: str, axes: Any = None
) -> NDArray[Any]:
    array = np.frombuffer(content, kind.dtype)
    if order == "K" and axes is not None:
        return array.reshape(_checked_shape(shape)).transpose(axes)
    return array.reshape(_checked_shape(shape), order="F" if order == "F" else "C")


def _encode(loader: _Loader, text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise ValueError(f"it encodes text as {encoding!r:.40}")
    loader.spend(len(text))
    return text.encode("latin1")


def _as_bytes(content: Any) -> Any:
    return content.encode("latin1") if isinstance(content, str) else content


def _keys(items: Any) -> Any:
    """Dictionary keys, or items of a set: plain, so that hashing them is quick."""
    for item in items:
        if not isinstance(item, _PLAIN):
            raise ValueError(f"it uses a {type(item).__name__} as a key")
    return items


def _pairs(loader: _Loader, pairs: Any = ()) -> dict[Any, Any]:
    return dict(zip(_keys([key for key, _ in pairs]), [value for _, value in pairs], strict=True))


_PLAIN = (str, bytes, int, float, type(None), np.generic)  # a bool is an int
_CONTAINERS = (list, tuple, dict, set, frozenset, np.ndarray)
_FUNCTIONS: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): None,  # the first argument of _reconstruct, which is always this one
    ("numpy", "dtype"): _Function(_Type),
    ("numpy.core.multiarray", "_reconstruct"): _Function(lambda loader, subtype, shape, kind: _Array((0,), "b")),
    ("numpy.core.multiarray", "scalar"): _Function(_scalar),
    ("numpy.core.numeric", "_frombuffer"): _Function(_from_buffer),
    ("_codecs", "encode"): _Function(_encode),  # bytes, in protocols before 3
    ("builtins", "bytes"): _Function(lambda loader: b""),  # no bytes, in protocols before 3
    ("builtins", "set"): _Function(lambda loader, items=(): set(_keys(items))),
    ("builtins", "frozenset"): _Function(lambda loader, items=(): frozenset(_keys(items))),
    ("collections", "OrderedDict"): _Function(_pairs),
}


def _quoted(file: BinaryIO) -> str:
    """Text of protocol 0; Python 2 writes the bytes of arrays so, which `pickletools` would take for ASCII."""
    text = pickletools.read_stringnl(file, decode=False, stripquotes=True)
    return codecs.escape_decode(text)[0].decode("latin1")  # type: ignore[attr-defined,no-any-return]


_NUMBERS = ("INT", "LONG", "BININT", "BININT1", "BININT2", "LONG1", "FLOAT", "BINFLOAT")
_TEXTS = ("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8")
_BYTES = ("BINBYTES", "SHORT_BINBYTES", "BINBYTES8")
_STEPS: dict[str, Callable[[_Loader, Any], Any]] = {
    **dict.fromkeys(("PROTO", "FRAME"), lambda it, _: None),
    **dict.fromkeys(_NUMBERS + _TEXTS + _BYTES, lambda it, value: it.stack.append(value)),
    "BYTEARRAY8": lambda it, value: it.stack.append(bytes(value)),
    "NONE": lambda it, _: it.stack.append(None),
    "NEWTRUE": lambda it, _: it.stack.append(True),
    "NEWFALSE": lambda it, _: it.stack.append(False),
    "EMPTY_LIST": lambda it, _: it.stack.append([]),
    "EMPTY_DICT": lambda it, _: it.stack.append({}),
    "EMPTY_TUPLE": lambda it, _: it.stack.append(()),
    "EMPTY_SET": lambda it, _: it.stack.append(set()),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), lambda it, number: it.put(number)),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda it, number: it.get(number)),
    "MEMOIZE": lambda it, _: it.put(len(it.memo)),
    "MARK": lambda it, _: it.marks.append(len(it.stack)),
    "POP": lambda it, _: it.pop(1),
    "POP_MARK": lambda it, _: it.pop_mark(),
    "LIST": lambda it, _: it.stack.append(it.pop_mark()),
    "TUPLE": lambda it, _: it.stack.append(tuple(it.pop_mark())),
    "TUPLE1": lambda it, _: it.stack.append(tuple(it.pop(1))),
    "TUPLE2": lambda it, _: it.stack.append(tuple(it.pop(2))),
    "TUPLE3": lambda it, _: it.stack.append(tuple(it.pop(3))),
    "FROZENSET": lambda it, _: it.stack.append(frozenset(_keys(it.pop_mark()))),
    "DICT": lambda it, _: it.new_dict(it.pop_mark()),
    "APPEND": lambda it, _: it.append(it.pop(1)),
    "APPENDS": lambda it, _: it.append(it.pop_mark()),
    "SETITEM": lambda it, _: it.set_items(it.pop(2)),
    "SETITEMS": lambda it, _: it.set_items(it.pop_mark()),
    "ADDITEMS": lambda it, _: it.add(it.pop_mark()),
    "GLOBAL": lambda it, name: it.find(*name.split(" ", 1)),
    "STACK_GLOBAL": lambda it, _: it.find(*it.pop(2)),
    "REDUCE": lambda it, _: it.reduce(),
    "BUILD": lambda it, _: it.build(),
}
# code: (reads the argument, or None; carries the instruction out)
_INSTRUCTIONS = {
    one.code.encode("latin1"): (one.arg and (_quoted if one.name == "STRING" else one.arg.reader), _STEPS[one.name])
    for one in pickletools.opcodes
    if one.name in _STEPS
}
