"""Pickles that others published, read without running the code that a pickle can hold."""

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

from cdvqa.errors import InputError

_ARRAYS = {"_reconstruct", "scalar"}
_ALLOWED: dict[tuple[str, str], Any] = {("collections", "OrderedDict"): OrderedDict}


class RestrictedUnpickler(pickle.Unpickler):
    """Builds plain Python values and numpy arrays; refuses every other class or function by name."""

    def find_class(self, module: str, name: str) -> Any:
        # numpy moved its core from numpy.core to numpy._core; bytes of protocol 2 come through _codecs.encode.
        numpy_core = module in ("numpy.core.multiarray", "numpy._core.multiarray") and name in _ARRAYS
        numpy_type = module == "numpy" and name in ("ndarray", "dtype")
        if numpy_core or numpy_type or (module, name) == ("_codecs", "encode"):
            return super().find_class(module, name)
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def load_pickle(path: str | Path) -> Any:
    """What a pickle of plain values and numpy arrays holds (pickles written by Python 2 too).

    Raises:
        InputError: the file is missing, is no pickle or cut off, or asks for any other class or function.
    """
    try:
        with Path(path).open("rb") as file:
            return RestrictedUnpickler(file, encoding="latin1").load()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise InputError(
            f"{path}: not a pickle of plain values and arrays ({error}); it was not read any further"
        ) from None
