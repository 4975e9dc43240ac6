"""A feature file that is being written: after an interruption at any moment, also by a kill, it can be completed.

The file, all data sets contiguous and uncompressed (`docs/features.md` says the same to users):

- `features` (N, R, F) fp16 or fp32, `boxes` (N, R, 4) fp32, `image_id` (N,), `size` (N, 2), `num_boxes` (N,) where
  counts differ;
- `conversion/place`: where the source finds each image in its input, so that a resumed conversion does not read all of
  it again; `conversion/blocks` (blocks, 3) uint32: a row per `images_per_block` images with the CRC-32 of their
  features, of their boxes, and of these two and the row's number; the last one marks the block as done;
- attributes `format`, `version`, `source` (JSON: which state of which input, and the options), `fingerprint` (JSON:
  `cdvqa.data.visual.fingerprint`, with shape, type, extractor and the input's CRC-32); on `conversion`
  `images_per_block` and, written last, `tables_crc` of the small data sets.

HDF5 only lays the file out. Blocks are then written at their offsets, so that no kill can damage HDF5's own structures.
A block's row is written when its data have reached the disk.
"""

import errno
import fcntl
import json
import os
import shutil
import struct
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from cdvqa.conversion.sources.source import FeatureIndex, ImageRegions
from cdvqa.data.visual.features import FORMAT, VERSION, text_attribute
from cdvqa.errors import InputError, Stopped

_RECORD = struct.Struct("<3I")
_TABLES = ("conversion/place", "image_id", "num_boxes", "size")


@dataclass(frozen=True, eq=False)
class FeatureFile:
    """A feature file that is laid out, finished or not, and open as `descriptor`."""

    path: Path
    descriptor: int
    source: dict[str, Any]
    """The input and options that it is made from: its attribute `source`."""
    index: FeatureIndex
    shape: tuple[int, int, int]
    """(N, R, F)."""
    dtype: str
    images_per_block: int
    offsets: tuple[int, int, int]
    """Of `features`, `boxes` and `conversion/blocks`, in bytes from the start of the file."""

    def __len__(self) -> int:
        """How many blocks there are."""
        return -(-self.shape[0] // self.images_per_block)

    def rows(self, block: int) -> slice:
        """The images of a block."""
        start = block * self.images_per_block
        return slice(start, min(start + self.images_per_block, self.shape[0]))

    def images(self, blocks: Iterable[int]) -> int:
        """How many images these blocks have."""
        return sum(rows.stop - rows.start for rows in map(self.rows, blocks))

    def done(self) -> list[int]:
        """The blocks that are marked as done."""
        return [block for block in range(len(self)) if self._record(block)]

    def write(self, block: int, images: Iterable[ImageRegions]) -> None:
        """Write a block, and mark it as done once its data have reached the disk.

        Raises:
            InputError: a value is not finite, or the stored type cannot hold it.
            Stopped: the disk is full or fails.
        """
        rows, (_, regions, width) = self.rows(block), self.shape
        features = np.empty((regions, width), self.dtype)
        boxes = np.empty((rows.stop - rows.start, regions, 4), np.float32)
        crc = 0
        with writing(self.path):
            for row, image in enumerate(images, rows.start):
                store(image, features, boxes[row - rows.start])
                crc = zlib.crc32(features.data, crc)
                put(self.descriptor, features.data, self.offsets[0] + row * features.nbytes)
            put(self.descriptor, boxes.data, self.offsets[1] + rows.start * boxes[0].nbytes)
            getattr(os, "fdatasync", os.fsync)(self.descriptor)
            put(self.descriptor, _record(block, crc, zlib.crc32(boxes.data)), self._record_at(block))

    def holds(self, block: int) -> bool:
        """Whether a block is done and reads back as it was written."""
        rows, (_, regions, width) = self.rows(block), self.shape
        crc = 0
        for row in range(rows.start, rows.stop):
            size = regions * width * np.dtype(self.dtype).itemsize
            crc = zlib.crc32(os.pread(self.descriptor, size, self.offsets[0] + row * size), crc)
        size = regions * 16
        boxes = os.pread(self.descriptor, size * (rows.stop - rows.start), self.offsets[1] + rows.start * size)
        return self._record(block) == _record(block, crc, zlib.crc32(boxes))

    def _record(self, block: int) -> bytes | None:
        """A block's row; None where there is none, or a torn one."""
        record = os.pread(self.descriptor, _RECORD.size, self._record_at(block))
        sound = len(record) == _RECORD.size and record == _record(block, *_RECORD.unpack(record)[:2])
        return record if sound else None

    def _record_at(self, block: int) -> int:
        return self.offsets[2] + _RECORD.size * block


@contextmanager
def claimed(path: Path) -> Iterator[int]:
    """Open and lock `path`; it is created empty if it is absent.

    Raises:
        InputError: another process holds it, or it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); choose another --output") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = os.path.samestat(path.stat(), os.fstat(descriptor))  # or another process has just finished it
        except (BlockingIOError, FileNotFoundError):
            ours = False
        if not ours:
            raise InputError(f"{path}: another process is writing this file; wait for it or end it")
        yield descriptor
    finally:
        os.close(descriptor)


def read_layout(path: Path, descriptor: int) -> FeatureFile | None:
    """The layout of a file made by `lay_out`, which is open as `descriptor`; None if it is anything else.

    Raises:
        OSError: it is no HDF5 file, incomplete, or damaged in HDF5's own structures.
        InputError: its small data sets have changed since it was laid out.
    """
    try:
        with h5py.File(path, "r", locking=False) as file:
            if text_attribute(file, "format") != FORMAT or file.attrs["version"] != VERSION:
                return None
            tables = {name: file[name][:] for name in _TABLES if name in file}
            features, images_per_block = file["features"], int(file["conversion"].attrs["images_per_block"])
            if file["conversion/blocks"].shape != (-(-len(features) // images_per_block), 3):
                raise ValueError("conversion/blocks has another number of rows than there are blocks")
            json.loads(file.attrs["fingerprint"])
            source, crc = json.loads(file.attrs["source"]), file["conversion"].attrs["tables_crc"]
            shape, dtype = features.shape, features.dtype.name
            offsets = tuple(file[name].id.get_offset() for name in ("features", "boxes", "conversion/blocks"))
    except Exception as error:  # h5py raises whatever damaged bytes lead to
        raise OSError(f"damaged: {error}") from None
    if crc != _crc(tables):
        raise InputError(f"{path}: its content has changed since it was made; make it again with --overwrite")
    num_boxes = tables.get("num_boxes", np.full(shape[0], shape[1]))
    index = FeatureIndex(tables["image_id"], tables["size"], num_boxes, shape[2], tables["conversion/place"])
    return FeatureFile(path, descriptor, source, index, shape, dtype, images_per_block, offsets)


def lay_out(
    path: Path,
    descriptor: int,
    index: FeatureIndex,
    dtype: str,
    images_per_block: int,
    source: dict[str, Any],
    fingerprint: dict[str, Any],
) -> FeatureFile:
    """Lay out a file for the indexed images at `path`, open as `descriptor`, and reserve its space on the disk.

    Raises:
        Stopped: the disk has too little room, or fails; nothing is left at `path`.
    """
    images, regions = len(index), int(index.num_boxes.max())
    tables = {"image_id": index.image_id, "size": index.size, "conversion/place": index.place}
    if index.num_boxes.min() != regions:
        tables["num_boxes"] = index.num_boxes
    needed = images * regions * (index.region_width * np.dtype(dtype).itemsize + 16)
    needed += sum(table.nbytes for table in tables.values())
    try:
        if needed > shutil.disk_usage(path.parent).free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with h5py.File(path, "w", locking=False) as file:
            _reserve(file, "features", (images, regions, index.region_width), dtype)
            _reserve(file, "boxes", (images, regions, 4), "float32")
            _reserve(file, "conversion/blocks", (-(-images // images_per_block), 3), "uint32")
            for name, table in tables.items():
                file[name] = table
            # bytes of fixed length: over a damaged heap of texts of any length, HDF5 can run forever
            texts = {"format": FORMAT, "source": json.dumps(source), "fingerprint": json.dumps(fingerprint)}
            file.attrs.update({"version": VERSION} | {name: np.bytes_(text) for name, text in texts.items()})
            file["conversion"].attrs["images_per_block"] = images_per_block
            file.flush()
            file["conversion"].attrs["tables_crc"] = _crc(tables)
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(descriptor, 0, path.stat().st_size)
        os.fsync(descriptor)
    except (OSError, RuntimeError) as error:  # HDF5 closes a file on a full disk with a RuntimeError
        path.unlink(missing_ok=True)
        room = f"{needed:,} bytes are needed and {shutil.disk_usage(path.parent).free:,} are free"
        raise Stopped(
            f"{path.parent}: {room} ({getattr(error, 'strerror', error) or error}); make room first"
        ) from None
    file = read_layout(path, descriptor)
    assert file is not None
    return file


def rename(path: Path, target: Path) -> None:
    """Rename, and flush the folder to disk, so that the new name survives a crash."""
    path.replace(target)
    folder = os.open(target.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def store(image: ImageRegions, features: NDArray[Any], boxes: NDArray[np.float32]) -> None:
    """Put an image's regions into rows of the stored type, zero where there are fewer regions than rows.

    Raises:
        InputError: a value is not finite, or the stored type cannot hold it.
    """
    for name, values, target in (("features", image.features, features), ("boxes", image.boxes, boxes)):
        limit = float(np.finfo(target.dtype).max)
        if not max(values.max(), -values.min()) <= limit:  # false for NaN too
            remedy = "; use --dtype float32" if np.isfinite(values).all() else ""
            what = f"{name} has NaN, infinite or too large values for {target.dtype}{remedy}"
            raise InputError(f"{image.where}: {what}")
        if values.dtype == np.float32 and target.dtype == np.float16:
            import torch  # its cast takes a fifteenth of numpy's time; without fp16 it is not needed

            writable = values if values.flags.writeable else values.copy()  # or torch warns
            torch.from_numpy(target[: len(values)]).copy_(torch.from_numpy(writable))
        else:
            target[: len(values)] = values
        target[len(values) :] = 0


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a write error into a message that names the file.

    Raises:
        Stopped: the disk is full or fails; what is written is kept.
    """
    try:
        yield
    except OSError as error:
        remedy = "what is written is kept: put it right and run the same command again"
        raise Stopped(f"{path}: cannot be written ({error.strerror}); {remedy}") from None


def put(descriptor: int, content: Any, offset: int) -> None:
    """Write all of `content` at an offset."""
    rest = memoryview(content).cast("B")
    while rest:
        written = os.pwrite(descriptor, rest, offset)
        rest, offset = rest[written:], offset + written


def _reserve(file: h5py.File, name: str, shape: tuple[int, ...], dtype: str) -> None:
    """Create a data set whose storage in the file is allocated at once."""
    storage = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    storage.set_layout(h5py.h5d.CONTIGUOUS)
    storage.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    storage.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    file.create_dataset(name, shape, dtype, dcpl=storage)


def _crc(tables: dict[str, NDArray[Any]]) -> int:
    crc = 0
    for name in sorted(tables):
        crc = zlib.crc32(np.ascontiguousarray(tables[name]).data, crc)
    return crc


def _record(block: int, features_crc: int, boxes_crc: int) -> bytes:
    check = zlib.crc32(struct.pack("<3I", features_crc, boxes_crc, block + 1))
    return _RECORD.pack(features_crc, boxes_crc, check)
