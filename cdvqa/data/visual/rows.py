"""Rows of one data set of an HDF5 file: read at their offset in the file, or through h5py."""

from __future__ import annotations

import os
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from cdvqa.errors import InputError


class Rows(ABC):
    """Rows of a data set, to be read in any order, with repeats, by any number of threads.

    `dtype` is the stored type where it is native fp16 or fp32, and fp32 for any other; `row_shape` is without the
    first axis. A forked process may go on reading; a pickled copy opens the file again.
    """

    def __init__(self, path: Path, dataset: h5py.Dataset) -> None:
        self.path = path
        self.name: str = dataset.name
        self.dtype = dataset.dtype if dataset.dtype in (np.float16, np.float32) else np.dtype(np.float32)
        self.row_shape: tuple[int, ...] = dataset.shape[1:]

    def __reduce__(self) -> tuple[object, ...]:
        return open_rows, (self.path, self.name)

    @contextmanager
    def _naming_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(f"{self.path}: {self.name} cannot be read ({error}); make the file again") from None

    @abstractmethod
    def read(self, rows: NDArray[np.intp], out: NDArray[np.floating]) -> None:
        """Fill `out` (B, *row_shape) of type `dtype`, C-contiguous, with the rows (B,)."""


class FileRows(Rows):
    """A data set in one uncompressed piece: several times as fast as through h5py, and threads do not wait."""

    def __init__(self, path: Path, dataset: h5py.Dataset) -> None:
        super().__init__(path, dataset)
        self._offset: int = dataset.id.get_offset()
        self._descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)

    def read(self, rows: NDArray[np.intp], out: NDArray[np.floating]) -> None:
        size = out[:1].nbytes
        with self._naming_errors():
            for into, row in zip(out, rows.tolist(), strict=True):
                if os.preadv(self._descriptor, [into], self._offset + row * size) != size:
                    raise InputError(
                        f"{self.path}: the file ends inside {self.name}; make it again with `cdvqa prepare`"
                    )


class LibraryRows(Rows):
    """A data set in any other storage (chunked, compressed, another type), through h5py."""

    def __init__(self, path: Path, dataset: h5py.Dataset) -> None:
        super().__init__(path, dataset)
        self._process = -1
        self._dataset: h5py.Dataset | None = None

    def read(self, rows: NDArray[np.intp], out: NDArray[np.floating]) -> None:
        if self._process != os.getpid():  # a forked process must not share the library's state with its parent
            self._dataset, self._process = open_file(self.path)[self.name], os.getpid()
        assert self._dataset is not None
        with self._naming_errors():
            for place in np.argsort(rows).tolist():  # rows of one chunk follow each other
                self._dataset.read_direct(out, np.s_[int(rows[place])], np.s_[place])


def open_file(path: Path) -> h5py.File:
    """The HDF5 file, for reading.

    Raises:
        InputError: it is missing, no HDF5 or cut off.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such feature file; make it with `cdvqa prepare` or point --data.features at it")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise InputError(f"{path}: not a readable HDF5 file ({error}); make it again with `cdvqa prepare`") from None


def open_rows(path: Path, name: str) -> Rows:
    """The fastest way to read a data set's rows from the file."""
    with open_file(path) as file:
        dataset = file[name]
        plain = dataset.chunks is None and not dataset.external and dataset.dtype in (np.float16, np.float32)
        in_one_piece = plain and dataset.id.get_offset() is not None
        return FileRows(path, dataset) if in_one_piece else LibraryRows(path, dataset)
