"""A feature file in the making: it can be left at any moment, by a kill too, and taken up again.

The file, all data sets contiguous and uncompressed (`docs/features.md` says the same to users):

- `features` (N, R, F) fp16 or fp32, `boxes` (N, R, 4) fp32, `image_id` (N,), `size` (N, 2), `num_boxes` (N,) where
  counts differ;
- `conversion/place`: the source's own note of where each image stands in the input, so that going on needs no second
  look at all of it; `conversion/blocks` (blocks, 3) uint32: a row per `images_per_block` images with the CRC-32 of
  their features and boxes, and a CRC-32 of these two and the row's number, which marks the block as done;
- attributes `format`, `version`, `source` (JSON: which state of which input, and the options), `fingerprint` (JSON:
  `cdvqa.data.visual.fingerprint`, with shape, type, extractor and the input's CRC-32); on `conversion`
  `images_per_block` and `tables_crc` of the small data sets.

HDF5 only lays the file out, under another name. From then on data are written at their offsets and HDF5's own
structures do not change, so that no kill can leave them half-written. A block's row is written once its data have
reached the disk.
"""

import errno
import fcntl
import json
import os
import shutil
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from cdvqa.conversion.blocks import RECORD, BlockFile
from cdvqa.conversion.sources.source import FeatureIndex
from cdvqa.data.visual.features import FORMAT, VERSION
from cdvqa.errors import InputError

PATIENCE = 5.0  # seconds in which the workers of a killed conversion have ended


@dataclass(frozen=True, eq=False)
class FeatureFile:
    """A feature file that is laid out, finished or not."""

    source: dict[str, Any]
    index: FeatureIndex
    blocks: BlockFile

    def images_done(self) -> int:
        """How many images are converted."""
        return sum(self.blocks.images(block) for block in np.flatnonzero(self.blocks.done()).tolist())


@contextmanager
def claimed(path: Path) -> Iterator[int]:
    """Open and lock `path`, which is made (empty) where it is absent.

    Raises:
        InputError: another process holds it, or it cannot be written.
    """
    give_up = time.monotonic() + PATIENCE
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            if _locked(descriptor) and _is_at(path, descriptor):
                break
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror}); choose another --output") from None
        os.close(descriptor)
        if time.monotonic() > give_up:
            raise InputError(f"{path}: another process is writing this file; wait for it or end it")
        time.sleep(0.05)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def readable(path: Path) -> Iterator[int]:
    """Open `path` for reading."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def read_layout(path: Path, descriptor: int) -> FeatureFile | None:
    """The layout of a file made by `lay_out`, which is open as `descriptor`; None if it is anything else.

    Raises:
        OSError: it is no HDF5 file, cut off, or damaged in HDF5's own structures.
        InputError: its small data sets have changed since it was laid out.
    """
    try:
        with h5py.File(path, "r", locking=False) as file:
            if file.attrs.get("format") != FORMAT or file.attrs["version"] != VERSION:
                return None
            return _layout(path, file, descriptor)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        # h5py's and ours, where bytes are wrong and one object stands for another
        raise OSError(f"damaged: {error}") from None


def _layout(path: Path, file: h5py.File, descriptor: int) -> FeatureFile:
    blocks = _blocks(path, file, descriptor)
    if file["conversion/blocks"].shape != (len(blocks), RECORD):
        raise ValueError("conversion/blocks has another number of rows than there are blocks")
    if file["conversion"].attrs["tables_crc"] != _tables_crc({name: file[name][:] for name in _tables(file)}):
        raise InputError(f"{path}: its content has changed since it was made; make it again with --overwrite")
    images, regions, width = file["features"].shape
    num_boxes = file["num_boxes"][:] if "num_boxes" in file else np.full(images, regions)
    index = FeatureIndex(file["image_id"][:], file["size"][:], num_boxes, width, file["conversion/place"][:])
    return FeatureFile(json.loads(file.attrs["source"]), index, blocks)


def lay_out(
    path: Path,
    descriptor: int,
    index: FeatureIndex,
    dtype: str,
    images_per_block: int,
    source: dict[str, Any],
    fingerprint: dict[str, Any],
) -> FeatureFile:
    """Put a file for the indexed images, with all its room on the disk and nothing converted, in the place of `path`.

    `descriptor`, which holds the lock, then stands for the new file.

    Raises:
        InputError: the disk has too little room.
    """
    images, regions = len(index), int(index.num_boxes.max())
    tables = {"image_id": index.image_id, "size": index.size, "conversion/place": index.place}
    if index.num_boxes.min() != regions:
        tables["num_boxes"] = index.num_boxes
    needed = images * regions * (index.region_width * np.dtype(dtype).itemsize + 16)
    needed += sum(table.nbytes for table in tables.values())
    new = path.with_name(f"{path.name}.new")
    try:
        if needed > shutil.disk_usage(path.parent).free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with h5py.File(new, "w", locking=False) as file:
            _reserve(file, "features", (images, regions, index.region_width), dtype)
            _reserve(file, "boxes", (images, regions, 4), "float32")
            _reserve(file, "conversion/blocks", (-(-images // images_per_block), RECORD), "uint32")
            offsets = {name: _reserve(file, name, table.shape, table.dtype) for name, table in tables.items()}
            texts = {"source": json.dumps(source), "fingerprint": json.dumps(fingerprint)}
            file.attrs.update({"format": FORMAT, "version": VERSION} | texts)
            file["conversion"].attrs.update({"images_per_block": images_per_block, "tables_crc": _tables_crc(tables)})
            blocks = _blocks(path, file, descriptor)
        _fill_and_lock(new, tables, offsets, descriptor)
        rename(new, path)
    except OSError as error:
        free = shutil.disk_usage(path.parent).free
        what = f"{needed:,} bytes are needed and {free:,} are free ({error.strerror or error})"
        raise InputError(f"{path.parent}: {what}; make room first") from None
    finally:
        new.unlink(missing_ok=True)
    return FeatureFile(source, index, blocks)


def _fill_and_lock(new: Path, tables: dict[str, NDArray[Any]], offsets: dict[str, int], descriptor: int) -> None:
    """Take the room on the disk, write the small data sets, and let `descriptor` stand for this file, locked."""
    with new.open("rb+", buffering=0) as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, new.stat().st_size)
        for name, table in tables.items():
            file.seek(offsets[name])
            file.write(np.ascontiguousarray(table).data)
        os.fsync(file.fileno())
        fcntl.flock(file.fileno(), fcntl.LOCK_EX)
        os.dup2(file.fileno(), descriptor, inheritable=False)


def rename(path: Path, target: Path) -> None:
    """Rename, for good even if the machine stops the next moment."""
    path.replace(target)
    folder = os.open(target.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def _reserve(file: h5py.File, name: str, shape: tuple[int, ...], dtype: Any) -> int:
    """Give a data set its place in the file now; returns its offset."""
    storage = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    storage.set_layout(h5py.h5d.CONTIGUOUS)
    storage.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    storage.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    return int(file.create_dataset(name, shape, dtype, dcpl=storage).id.get_offset())


def _blocks(path: Path, file: h5py.File, descriptor: int) -> BlockFile:
    features = file["features"]
    offsets = [file[name].id.get_offset() for name in ("features", "boxes", "conversion/blocks")]
    images_per_block = int(file["conversion"].attrs["images_per_block"])
    return BlockFile(str(path), descriptor, features.shape, features.dtype.name, images_per_block, *offsets)


def _tables(file: h5py.File) -> list[str]:
    return [name for name in ("image_id", "size", "conversion/place", "num_boxes") if name in file]


def _tables_crc(tables: dict[str, NDArray[Any]]) -> int:
    crc = 0
    for name in sorted(tables):
        crc = zlib.crc32(np.ascontiguousarray(tables[name]).data, crc)
    return crc


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether the open file is still the one of that name: it may have been finished while we waited for the lock."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
