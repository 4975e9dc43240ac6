"""Rows of one data set of an HDF5 file: read at their offset in the file, or through h5py."""

import math
import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from cdvqa.errors import InputError

LARGEST = 1 << 28  # bytes of an image, and of a chunk: HDF5 unpacks one in memory of its own


class Rows:
    """Rows of a data set, to be read in any order, with repeats, by any number of threads and by forked processes.

    One that is stored in one uncompressed piece of native fp16 or fp32 is read at its offset in the file: several times
    as fast as through h5py, and threads do not wait. Any other storage is read through h5py.

    Attributes:
        dtype: the stored type where it is native fp16 or fp32, and fp32 for any other.
    """

    def __init__(self, path: Path, dataset: h5py.Dataset) -> None:
        native = dataset.dtype in (np.float16, np.float32)
        self.dtype = dataset.dtype if native else np.dtype(np.float32)
        self._path, self._name = path, dataset.name
        self._offset = dataset.id.get_offset() if native and dataset.chunks is None else None
        self._dataset: Any = None
        self._process = -1
        if self._offset is not None:
            self._descriptor = os.open(path, os.O_RDONLY)
            weakref.finalize(self, os.close, self._descriptor)

    def read(self, rows: NDArray[np.intp], out: NDArray[np.floating]) -> None:
        """Fill `out` (B, ...) of type `dtype`, C-contiguous, with the rows (B,).

        Raises:
            InputError: the file is cut off or damaged.
        """
        try:
            if self._offset is None:
                self._read_through_library(rows, out)
            else:
                size = out[:1].nbytes
                for into, row in zip(out, rows.tolist(), strict=True):
                    if os.preadv(self._descriptor, [into], self._offset + row * size) != size:
                        raise ValueError("the file ends inside it")
        except Exception as error:  # as in `opened`
            why = f"{self._name} cannot be read ({error!s:.200})"
            raise InputError(f"{self._path}: {why}; make the file again with `cdvqa prepare`") from None

    def _read_through_library(self, rows: NDArray[np.intp], out: NDArray[np.floating]) -> None:
        if self._process != os.getpid():  # a forked process must not share the library's state with its parent
            self._dataset, self._process = h5py.File(self._path, "r")[self._name], os.getpid()
        for index in np.argsort(rows).tolist():  # so that rows of one chunk follow each other
            self._dataset.read_direct(out, np.s_[int(rows[index])], np.s_[index])


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
