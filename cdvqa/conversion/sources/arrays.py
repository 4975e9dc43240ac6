"""Region features in a folder of numpy files, one image each."""

import os
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import ZipFile

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from cdvqa.conversion.lazy_unpickle import LazyArray, LazyUnpickler, Span, only_object
from cdvqa.conversion.sources.record import Record, RecordSource
from cdvqa.conversion.sources.source import FeatureIndex, Report
from cdvqa.data.pickles import refused
from cdvqa.errors import InputError

_INFO = "_info.npy"


class ArrayFolder(RecordSource):
    """A folder, with its subfolders, of `.npz` or `.npy` files named by their image's id.

    - `.npz` as bottom-up-attention.pytorch and openvqa write them: `x` (openvqa turns it on its side), `bbox`,
      `num_bbox`, `image_w`, `image_h`; or as UNITER does: `features`, `norm_bb`.
    - `.npy` as mmf writes them: `ID.npy` holds the features and `ID_info.npy` a pickled dict with `bbox`,
      `image_width`, `image_height`; or `ID.npy` holds one dict with everything.

    Folders that mmf's `lmdb_conversion.py --mode extract` made have the width in place of the height; take the LMDB.

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

    def scan(self, report: Report) -> Iterator[tuple[Record, int]]:
        for place, name in enumerate(self._names):
            with closing(_Opened(self.path / name)) as opened:
                yield opened.record, place
            report("checking", self._ends[place], self.bytes)

    def records(self, index: FeatureIndex) -> Iterator[Record]:
        for place in index.place.tolist():
            with closing(_Opened(self.path / self._names[place])) as opened:
                yield opened.record


class _Opened:
    """The file or the two files of one image, with their headers read."""

    def __init__(self, path: Path) -> None:
        self._files: list[BinaryIO] = []
        try:
            fields = self._zipped(path) if path.suffix == ".npz" else self._plain(path)
        except InputError:
            self.close()
            raise
        except Exception as error:  # whatever zipfile, zlib and numpy's parser of headers stumble over
            self.close()
            raise InputError(f"{path}: not a readable {path.suffix} file ({error}); make it again") from None
        self.record = Record(str(path), path.name.partition(".")[0], fields)

    def close(self) -> None:
        for file in self._files:
            file.close()

    def _open(self, path: Path) -> BinaryIO:
        self._files.append(path.open("rb"))
        return self._files[-1]

    def _zipped(self, path: Path) -> dict[str, Any]:
        archive = ZipFile(self._open(path))
        members = {}
        for name in archive.namelist():
            with archive.open(name) as file:
                shape, _, dtype = _header(file)
            if not dtype.hasobject:  # others hold a pickle, and nothing that is needed
                members[name.removesuffix(".npy")] = _Member(archive, name, shape)
        return members

    def _plain(self, path: Path) -> dict[str, Any]:
        content = self._content(path)
        if isinstance(content, dict):
            return content
        companion = path.with_name(path.name.removesuffix(".npy") + _INFO)
        if not companion.is_file():
            raise InputError(f"{path}: {companion.name}, which has its boxes and its size, is missing beside it")
        described = self._content(companion)
        if not isinstance(described, dict):
            raise InputError(f"{companion}: holds no dict with bbox, image_width and image_height")
        return described | {"features": content}

    def _content(self, path: Path) -> Any:
        """A `LazyArray`, or the object that was saved as if it were one."""
        file = self._open(path)
        size = os.fstat(file.fileno()).st_size
        shape, fortran, dtype = _header(file)

        def read_at(offset: int, length: int) -> bytes:
            return os.pread(file.fileno(), length, offset)

        if not dtype.hasobject:
            start = file.tell()
            return LazyArray(Span(read_at, start, size - start), shape, dtype, fortran)
        try:
            return only_object(LazyUnpickler(file, size, read_at).load())
        except Exception as error:  # broken pickles raise whatever their instructions happen to raise
            raise refused(str(path), error) from None


class _Member:
    """An array in an archive, read when it is asked for."""

    def __init__(self, archive: ZipFile, name: str, shape: tuple[int, ...]) -> None:
        self._archive, self._name, self.shape = archive, name, shape

    def read(self) -> NDArray[Any]:
        try:
            with self._archive.open(self._name) as file:
                return npy.read_array(file, allow_pickle=False)
        except Exception as error:  # as above
            raise ValueError(str(error)) from None


def _header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy.read_magic(file)
    return npy.read_array_header_1_0(file) if version == (1, 0) else npy.read_array_header_2_0(file)


def _listing(folder: Path) -> Iterator[tuple[str, int, int]]:
    """Name below the folder, size and time of change of every file that numpy may have written."""
    for place, _, names in os.walk(folder):
        for name in names:
            if name.endswith((".npz", ".npy")):
                path = os.path.join(place, name)
                status = os.stat(path)
                yield os.path.relpath(path, folder), status.st_size, status.st_mtime_ns
