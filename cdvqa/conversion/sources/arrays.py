"""Region features in a folder of numpy files, one image each."""

import math
import os
import zlib
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from cdvqa.conversion.sources.record import ImageRecord, RecordSource, Stored
from cdvqa.conversion.sources.source import FeatureIndex, Progress
from cdvqa.data.pickles import unpickle
from cdvqa.errors import InputError

_INFO = "_info.npy"
_LARGEST = 1 << 28  # bytes of an array, and of a file; 100 regions of 2048 doubles have 1.6 MB


class ArrayFolder(RecordSource):
    """A folder, with its subfolders, of `.npz` or `.npy` files named by their image's id.

    - `.npz` as bottom-up-attention.pytorch and openvqa write them: `x` (transposed by openvqa), `bbox`, `num_bbox`,
      `image_w`, `image_h`; or as UNITER does: `features`, `norm_bb`.
    - `.npy` as mmf writes them: `ID.npy` holds the features and `ID_info.npy` a pickled dict with `bbox`,
      `image_width`, `image_height`; or `ID.npy` holds one dict with everything.

    Folders that mmf's `lmdb_conversion.py --mode extract` made have the width in place of the height; use the LMDB.

    Args:
        path: the folder.

    Raises:
        InputError: there is no such folder, or no such file in it.
    """

    format = "arrays"

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_dir():
            raise InputError(f"{path}: no such folder")
        listing = sorted(_listing(self.path))
        self._names = [name for name, _, _ in listing if not name.endswith(_INFO)]
        self._ends = np.cumsum([size for name, size, _ in listing if not name.endswith(_INFO)]).tolist()
        if not self._names:
            raise InputError(f"{path}: holds no .npz or .npy file with features")
        self.bytes = self._ends[-1]

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return path.is_dir() and next(_listing(path), None) is not None

    @property
    def identity(self) -> dict[str, Any]:
        listing = sorted(_listing(self.path))
        return {"files": len(listing), "listing": zlib.crc32(repr(listing).encode())}

    def scan(self, progress: Progress) -> Iterator[tuple[ImageRecord, int]]:
        for place, record in enumerate(self._records(self._names)):
            yield record, place
            progress("checking", self._ends[place], self.bytes)

    def records(self, index: FeatureIndex) -> Iterator[ImageRecord]:
        return self._records(self._names[place] for place in index.place.tolist())

    def _records(self, names: Iterable[str]) -> Iterator[ImageRecord]:
        for name in names:
            path = self.path / name
            try:
                if path.suffix == ".npz":
                    with ZipFile(path) as archive:
                        yield ImageRecord(str(path), path.name.partition(".")[0], _zipped(archive))
                else:
                    yield ImageRecord(str(path), path.name.partition(".")[0], _plain(path))
            except InputError:
                raise
            except Exception as error:  # whatever zipfile, zlib and numpy's parser of headers raise
                raise InputError(f"{path}: not a readable {path.suffix} file ({error!s:.200}); make it again") from None


def _zipped(archive: ZipFile) -> dict[str, Any]:
    """The arrays of an archive, unread; others than plain ones hold a pickle, and nothing that is needed."""
    members = {}
    for info in archive.infolist():
        with archive.open(info) as file:
            shape, _, dtype = _header(file, info.file_size)
        if not dtype.hasobject:
            members[info.filename.removesuffix(".npy")] = Stored(shape, partial(_member, archive, info))
    return members


def _member(archive: ZipFile, info: Any) -> NDArray[Any]:
    with archive.open(info) as file:
        return _array(file, info.file_size)


def _plain(path: Path) -> dict[str, Any]:
    """The fields in ID.npy and ID_info.npy; features are left unread."""
    content = _content(path)
    if isinstance(content, dict):
        return content
    companion = path.with_name(path.name.removesuffix(".npy") + _INFO)
    if not companion.is_file():
        raise InputError(f"{path}: {companion.name}, which has its boxes and its size, is missing beside it")
    described = _content(companion)
    if not isinstance(described, dict):
        raise InputError(f"{companion}: holds no dict with bbox, image_width and image_height")
    return described | {"features": content}


def _content(path: Path) -> Any:
    """An array, unread, or the object that was saved as if it were one."""
    size = path.stat().st_size
    with path.open("rb") as file:
        shape, _, dtype = _header(file, size)
        if not dtype.hasobject:
            return Stored(shape, partial(_read, path))
        saved = unpickle(file.read(), str(path))
    if not isinstance(saved, np.ndarray) or saved.shape != ():
        raise InputError(f"{path}: not a pickle of one dict; make it again")
    return saved.item()


def _read(path: Path) -> NDArray[Any]:
    with path.open("rb") as file:
        return _array(file, path.stat().st_size)


def _array(file: Any, size: int) -> NDArray[Any]:
    shape, fortran, dtype = _header(file, size)
    return np.frombuffer(file.read(), dtype).reshape(shape, order="F" if fortran else "C")


def _header(file: Any, size: int) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether in Fortran order, and type of an array; ValueError if there are not as many bytes."""
    if size > _LARGEST:
        raise ValueError(f"{size:,} bytes are too many for one image")
    version = npy.read_magic(file)
    shape, fortran, dtype = (npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0)(file)
    if not dtype.hasobject and math.prod(shape) * dtype.itemsize != size - file.tell():
        raise ValueError(f"an array {shape} of {dtype} does not have {size:,} bytes")
    return shape, fortran, dtype


def _listing(folder: Path) -> Iterator[tuple[str, int, int]]:
    """Name below the folder, size and time of change of every file that numpy may have written."""
    for place, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(place, name)
            if name.endswith((".npz", ".npy")) and os.path.isfile(path):  # no pipe or device
                status = os.stat(path)
                yield os.path.relpath(path, folder), status.st_size, status.st_mtime_ns
