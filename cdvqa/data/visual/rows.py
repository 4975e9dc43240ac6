"""Rows of one data set of an HDF5 file: read at their offset in the file, or through h5py."""

from __future__ import annotations

import math
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

LARGEST = 1 << 28  # bytes of an image, and of a chunk, which HDF5 needs besides to take it apart


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
        except InputError:
            raise
        except Exception as error:  # as in `opened`
            raise InputError(f"{self.path}: {self.name} cannot be read ({error!s:.200}); make the file again") from None

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
            self._dataset, self._process = None, os.getpid()
        with self._naming_errors():
            self._dataset = self._dataset or h5py.File(self.path, "r")[self.name]
            for place in np.argsort(rows).tolist():  # rows of one chunk follow each other
                self._dataset.read_direct(out, np.s_[int(rows[place])], np.s_[place])


@contextmanager
def opened(path: Path, remedy: str = "make it again with `cdvqa prepare`") -> Iterator[h5py.File]:
    """An HDF5 file, for reading.

    Raises:
        InputError: it is missing, no HDF5, cut off or damaged; also inside the context.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such feature file; make it with `cdvqa prepare` or point --data.features at it")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except InputError:
        raise
    except Exception as error:  # h5py raises whatever damaged bytes lead to
        raise InputError(f"{path}: not a readable HDF5 file ({error!s:.200}); {remedy}") from None


def own_dataset(path: Path, file: h5py.File, name: str) -> h5py.Dataset | None:
    """A data set that is stored in this file, of a size that the file can have; None where there is none.

    Raises:
        InputError: it is a link or lies in other files (its offset would be another file's), or its size is absurd.
    """
    link = file.get(name, getlink=True)
    if link is None:
        return None
    if not isinstance(link, h5py.HardLink):  # an external one is not even opened
        raise InputError(f"{path}: {name} is a link; store the data set itself in this file, for example with h5copy")
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset) or not dataset.shape:
        return None
    if dataset.is_virtual or dataset.external:
        raise InputError(f"{path}: {name} is stored in other files; store it in this one, for example with h5repack")
    chunk = math.prod(dataset.chunks or ()) * dataset.dtype.itemsize
    if chunk > LARGEST:
        raise InputError(f"{path}: a chunk of {name} has {chunk:,} bytes; make them smaller with h5repack")
    size, offset = path.stat().st_size, dataset.id.get_offset()
    row = math.prod(dataset.shape[1:]) * dataset.dtype.itemsize
    end = row * dataset.shape[0] + offset if offset is not None else dataset.shape[0]  # a row takes a byte at least
    if end > size or row > LARGEST:
        raise InputError(f"{path}: {name} cannot be {dataset.shape} in a file of {size:,} bytes; make the file again")
    return dataset


def rows_of(path: Path, dataset: h5py.Dataset) -> Rows:
    """The fastest way to read a data set's rows from the file."""
    plain = dataset.chunks is None and dataset.dtype in (np.float16, np.float32)
    return (FileRows if plain and dataset.id.get_offset() is not None else LibraryRows)(path, dataset)


def open_rows(path: Path, name: str) -> Rows:
    """The rows of a data set of a file that `RegionFeatures` has opened before."""
    with opened(path) as file:
        return rows_of(path, own_dataset(path, file, name))
