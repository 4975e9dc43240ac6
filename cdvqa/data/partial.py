"""A feature file in the making: it can be left at any moment, by a kill too, and taken up again."""

import json
import os
import shutil
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from cdvqa.data.tsv import TsvIndex
from cdvqa.errors import InputError

BLOCK = 256  # images written and flushed together


class PartialFeatures:
    """`FILE.part`: all data sets laid out at full size, filled from the first image on.

    The attribute `progress` holds how many images are in, the offset at which the input goes on, and two CRC-32: of the
    features so far, and of the small data sets followed by the boxes so far. It is written only after these images have
    reached the disk, and stays in the finished file, where it vouches for the content. The attribute `source` says
    which input and options the file is made from.
    """

    def __init__(self, path: Path, file: h5py.File) -> None:
        self.path = path
        self.file = file
        self.shape: tuple[int, int, int] = file["features"].shape
        self.rows, self.offset, self._features_crc, self._boxes_crc = _progress(file)

    @classmethod
    def create(
        cls, path: Path, source: dict[str, Any], index: TsvIndex, region_width: int, dtype: str
    ) -> "PartialFeatures":
        """Lay out a file for the indexed images, in uncompressed pieces as `RegionFeatures` reads them fastest.

        Raises:
            InputError: the disk has too little room.
        """
        images, regions = len(index.image_id), int(index.num_boxes.max())
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        needed = images * regions * (region_width * np.dtype(dtype).itemsize + 16)
        if needed > (free := shutil.disk_usage(path.parent).free):
            raise InputError(f"{path.parent}: {needed:,} bytes are needed and {free:,} are free; make room first")
        file = h5py.File(path, "w")
        _lay_out(file, "features", (images, regions, region_width), dtype)
        _lay_out(file, "boxes", (images, regions, 4), "float32")
        file["image_id"], file["size"] = index.image_id, index.size
        if index.num_boxes.min() != regions:
            file["num_boxes"] = index.num_boxes
        file.attrs["source"] = json.dumps(source)
        file.attrs["progress"] = np.array([0, 0, 0, _tables_crc(file)], np.uint64)
        _flush(file)
        return cls(path, file)

    @classmethod
    def resume(cls, path: Path, source: dict[str, Any]) -> "PartialFeatures | None":
        """Take up a file that was left; None where there is none, or none that got beyond being laid out.

        Raises:
            InputError: another process is writing it, or it was begun from another input or with other options.
        """
        try:
            file = h5py.File(path, "r+")
        except BlockingIOError:
            raise InputError(f"{path}: another process is writing this file; wait for it or end it") from None
        except OSError:  # absent, or killed while it was being laid out
            return None
        if "progress" not in file.attrs:
            file.close()
            return None
        if json.loads(file.attrs["source"]) != source:
            file.close()
            raise InputError(f"{path}: begun from another input or with other options; start over with --overwrite")
        return cls(path, file)

    def append(self, features: NDArray[Any], boxes: NDArray[Any], offset: int) -> None:
        """Add the next images (n, R, F) and (n, R, 4); the input goes on at `offset`."""
        end = self.rows + len(features)
        self.file["features"][self.rows : end] = features
        self.file["boxes"][self.rows : end] = boxes
        _flush(self.file)
        self.rows, self.offset = end, offset
        self._features_crc = zlib.crc32(features.data, self._features_crc)
        self._boxes_crc = zlib.crc32(boxes.data, self._boxes_crc)
        progress = [self.rows, self.offset, self._features_crc, self._boxes_crc]
        self.file.attrs.modify("progress", np.array(progress, np.uint64))
        self.file.flush()

    def finish(self, target: Path) -> None:
        """Give the complete file its name."""
        assert self.rows == self.shape[0]
        self.file.close()
        self.path.replace(target)

    def close(self) -> None:
        """Leave the file as far as it has come."""
        self.file.close()


def verify_features(path: Path, source: dict[str, Any]) -> tuple[tuple[int, int, int], str]:
    """Read a finished file through and return shape and type of its features.

    Raises:
        InputError: it was not made from this input with these options, or its content has changed since.
    """
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise InputError(f"{path}: not a readable HDF5 file ({error}); replace it with --overwrite") from None
    with file:
        if not {"source", "progress"} <= set(file.attrs) or json.loads(file.attrs["source"]) != source:
            raise InputError(f"{path}: not made from this input with these options; replace it with --overwrite")
        features = file["features"]
        rows, _, *expected = _progress(file)
        if rows != len(features) or expected != [_crc(features, 0), _crc(file["boxes"], _tables_crc(file))]:
            raise InputError(f"{path}: its content has changed since it was made; make it again with --overwrite")
        return features.shape, features.dtype.name


def _lay_out(file: h5py.File, name: str, shape: tuple[int, ...], dtype: str) -> None:
    """Reserve a data set's place in the file now, so that filling it changes nothing but the data."""
    storage = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    storage.set_layout(h5py.h5d.CONTIGUOUS)
    storage.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    storage.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    file.create_dataset(name, shape, dtype, dcpl=storage)


def _progress(file: h5py.File) -> tuple[int, int, int, int]:
    rows, offset, features_crc, boxes_crc = (int(value) for value in file.attrs["progress"])
    return rows, offset, features_crc, boxes_crc


def _tables_crc(file: h5py.File) -> int:
    crc = 0
    for name in ("image_id", "size", "num_boxes"):
        if name in file:
            crc = _crc(file[name], crc)
    return crc


def _crc(dataset: h5py.Dataset, crc: int) -> int:
    """CRC-32 of a data set that follows what has the CRC-32 `crc`."""
    for start in range(0, len(dataset), BLOCK):
        crc = zlib.crc32(dataset[start : start + BLOCK], crc)
    return crc


def _flush(file: h5py.File) -> None:
    file.flush()
    os.fsync(file.id.get_vfd_handle())
