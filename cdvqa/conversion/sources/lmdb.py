"""Region features in LMDB, as mmf (Pythia) and ViLBERT keep them: one pickled dict an image."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cdvqa.conversion.sources.record import ImageRecord, RecordSource
from cdvqa.conversion.sources.source import FeatureIndex, Progress
from cdvqa.data.pickles import unpickle
from cdvqa.errors import InputError

_AT_ONCE = 64  # images read from one mapping: the pages of a mapping count as memory of the process


class LmdbFeatures(RecordSource):
    """An LMDB whose entry `keys` is the pickled list of the other keys, each an image.

    An entry is a pickled dict. mmf's has `features`, `bbox`, `image_width`, `image_height`, `num_boxes`; ViLBERT's has
    `features`, `boxes`, `image_w`, `image_h`, `num_boxes`, the first two as arrays or as base64 of float32. The image's
    id is the number at the end of the key.

    Args:
        path: the folder with `data.mdb`, or the file itself.

    Raises:
        InputError: the package lmdb is not installed; it is no LMDB, or one of another layout.
    """

    format = "lmdb"

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file = self.path / "data.mdb" if self.path.is_dir() else self.path
        if not self._file.is_file():
            raise InputError(f"{self._file}: no such file")
        self.bytes = self._file.stat().st_size
        with self._opened() as entries:
            content = entries.get(b"keys")
            if content is None:
                raise InputError(f"{path}: has no entry 'keys', as the LMDBs of mmf and ViLBERT have")
            keys = unpickle(bytes(content), f"{path}: keys")
        if not isinstance(keys, list) or not all(isinstance(key, bytes | str) for key in keys):
            raise InputError(f"{path}: its entry 'keys' is no list of keys")
        self._keys = [key.encode("latin1") if isinstance(key, str) else key for key in keys]

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return (path / "data.mdb").is_file() or (path.is_file() and path.suffix in (".lmdb", ".mdb"))

    @property
    def identity(self) -> dict[str, Any]:
        status = self._file.stat()
        return {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns}

    def scan(self, progress: Progress) -> Iterator[tuple[ImageRecord, int]]:
        for place, record in enumerate(self._read(range(len(self._keys)))):
            progress("checking", self.bytes * (place + 1) // len(self._keys), self.bytes)
            yield record, place

    def records(self, index: FeatureIndex) -> Iterator[ImageRecord]:
        return self._read(index.place.tolist())

    def _read(self, places: Sequence[int]) -> Iterator[ImageRecord]:
        for start in range(0, len(places), _AT_ONCE):
            with self._opened() as entries:
                for place in places[start : start + _AT_ONCE]:
                    key = self._keys[place]
                    where = f"{self.path}: key {key.decode('latin1')[:60]!r}"
                    content = entries.get(key)
                    if content is None:
                        raise InputError(f"{where}: it is listed in 'keys' but not there; fetch the LMDB again")
                    name = key.decode("latin1").rpartition("/")[2]
                    yield ImageRecord(where, name.partition(".")[0], _fields(content, where))

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        try:
            import lmdb
        except ImportError:
            raise InputError(f"{self.path}: reading LMDB wants a package more: pip install cdvqa[lmdb]") from None
        try:
            with (
                lmdb.open(
                    str(self.path), subdir=self.path.is_dir(), readonly=True, lock=False, readahead=False, meminit=False
                ) as environment,
                environment.begin(buffers=True) as entries,
            ):
                self._check_length(environment)
                yield entries
        except lmdb.Error as error:
            raise InputError(f"{self.path}: not a readable LMDB ({error}); fetch it again") from None

    def _check_length(self, environment: Any) -> None:
        """A page that is missing at the end of the file would end the process when it is read."""
        needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
        if needed > (there := self._file.stat().st_size):
            raise InputError(f"{self._file}: ends after {there:,} of {needed:,} bytes; fetch it again")


def _fields(content: memoryview, where: str) -> dict[str, Any]:
    fields = unpickle(bytes(content), where)
    if not isinstance(fields, dict):
        raise InputError(f"{where}: holds {type(fields).__name__}, not a dict with features and boxes")
    return fields
