"""Region features in HDF5: in the layouts of the bottom-up baselines, or in cdvqa's own with any storage."""

import json
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from cdvqa.conversion.sources.record import shares
from cdvqa.conversion.sources.source import FeatureIndex, FeatureSource, ImageRegions, Progress
from cdvqa.data.pickles import load_pickle
from cdvqa.data.visual.rows import opened, own_dataset
from cdvqa.errors import InputError, printable

_BLOCK = 1 << 26  # bytes of features in memory at once


class Hdf5Features(FeatureSource):
    """A file in one of three layouts.

    - That of bottom-up-attention-vqa and what was built on it: `image_features` (N, R, F), `spatial_features` (N, R, 6)
      whose first four columns are boxes as shares, and beside NAME.hdf5 a pickle NAME_imgid2idx.pkl: image id -> row.
    - BAN's, with regions of all images in one table: `image_features` (boxes, F), `spatial_features` (boxes, 6),
      `pos_boxes` (N, 2) = first box and the one after the last; and the same pickle.
    - cdvqa's: `features` (N, R, F), `boxes` (N, R, 4) as shares, `image_id` (N,), optional `size` (N, 2) and
      `num_boxes` (N,); or with boxes in pixels where there is `size`.

    Any floating-point type, chunked and compressed or not. Rows that no image id points to are left out.

    Args:
        path: the file.

    Raises:
        InputError: it is no HDF5 or cut off, of no such layout, or the pickle beside it is missing.
    """

    format = "hdf5"

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise InputError(f"{path}: no such file")
        self.bytes = self.path.stat().st_size
        with self._opened() as file:
            self._own = file.get("features", getlink=True) is not None
            self._names = ("features", "boxes") if self._own else ("image_features", "spatial_features")
            self._adaptive = not self._own and "pos_boxes" in file
            self._check_layout(file)
        self._rows_of = self.path.with_name(f"{self.path.stem}_imgid2idx.pkl")
        if not self._own and not self._rows_of.is_file():
            raise InputError(f"{path}: {self._rows_of.name}, which tells the image of each row, is missing beside it")

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return path.is_file() and bool(h5py.is_hdf5(path))

    @property
    def identity(self) -> dict[str, Any]:
        statuses = [path.stat() for path in (self.path, *(() if self._own else (self._rows_of,)))]
        return {"bytes": [status.st_size for status in statuses], "mtime_ns": [s.st_mtime_ns for s in statuses]}

    @property
    def extractor(self) -> str | None:
        with self._opened() as file:
            return json.loads(file.attrs["fingerprint"]).get("extractor") if "fingerprint" in file.attrs else None

    def index(self, progress: Progress) -> FeatureIndex:
        with self._opened() as file:
            ids, rows = self._images(file)
            size = file["size"][:] if self._own and "size" in file else np.zeros((len(ids), 2))
            bounds = file["pos_boxes"][:].astype(np.int64)[rows] if self._adaptive else np.stack([rows, rows + 1], 1)
            stored, width = len(file[self._names[0]]), file[self._names[0]].shape[-1]
            limit = stored if self._adaptive else file[self._names[0]].shape[1]
            counts = bounds[:, 1] - bounds[:, 0] if self._adaptive else np.full(len(ids), limit)
            counts = file["num_boxes"][:] if self._own and "num_boxes" in file else counts
        outside = (counts < 1) | (counts > limit) | (bounds[:, 0] < 0) | (bounds[:, 1] > stored)
        for row in np.flatnonzero(outside)[:1]:
            raise InputError(
                f"{self.path}: image {ids[row]} is said to have {counts[row]} boxes from row {bounds[row, 0]} on, "
                f"but there are {stored} rows and at most {limit} boxes an image"
            )
        progress("checking", self.bytes, self.bytes)
        return FeatureIndex(ids, size.astype(np.int64), counts.astype(np.int64), width, bounds)

    def images(self, index: FeatureIndex) -> Iterator[ImageRegions]:
        with self._opened() as file:
            rows = (_rows_of_images(file[name], index.place) for name in self._names)
            images = zip(index.image_id, index.place[:, 0], index.num_boxes, index.size.tolist(), *rows, strict=True)
            for image, row, count, (width, height), features, boxes in images:
                where = f"{self.path}: image {image} (row {row})"
                regions = features.reshape(-1, index.region_width)[:count]
                corners = boxes[..., :4].reshape(-1, 4)[:count].astype(np.float32)
                yield ImageRegions(where, regions, shares(where, corners, (width, height)))

    def _images(self, file: h5py.File) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Image ids and their rows, by rising row."""
        if self._own:
            ids = file["image_id"][:].astype(np.int64)
            rows, origin = np.arange(len(ids)), self.path
        else:
            ids, rows = _read_rows(self._rows_of)
            origin = self._rows_of
            images = len(file["pos_boxes" if self._adaptive else self._names[0]])
            if rows[0] < 0 or rows[-1] >= images:
                row, image = (rows[0], ids[0]) if rows[0] < 0 else (rows[-1], ids[-1])
                raise InputError(f"{origin}: image {image} has row {row}, but {self.path.name} has {images} images")
        for what, values in (("image", ids), ("row", rows)):
            sorted_values = np.sort(values)
            for twice in sorted_values[1:][sorted_values[1:] == sorted_values[:-1]][:1]:
                raise InputError(f"{origin}: duplicate {what} {twice}; remove one")
        return ids, rows

    def _check_layout(self, file: h5py.File) -> None:
        features, boxes = self._names
        tables = ["pos_boxes"] if self._adaptive else ["image_id", "size", "num_boxes"] if self._own else []
        for name in (*self._names, *tables):
            if name not in file and name in ("size", "num_boxes"):
                continue
            if own_dataset(self.path, file, name) is None:
                there = printable(", ".join(map(str, file)) or "nothing", 200)
                raise InputError(f"{self.path}: holds no {name!r} but {there}; convert the TSV it was made from")
            kind = "floating-point numbers" if name in self._names else "integers"
            if file[name].dtype.kind not in ("f" if name in self._names else "iu"):
                raise InputError(f"{self.path}: {name} holds {file[name].dtype}, not {kind}")
        shape = file[features].shape
        if len(shape) != (2 if self._adaptive else 3) or 0 in shape:
            raise InputError(
                f"{self.path}: {features} is {shape}, not {'boxes' if self._adaptive else 'N, boxes'}, width"
            )
        wanted = {boxes: (*shape[:-1], 4 if self._own else 6)}
        wanted |= {"image_id": shape[:1], "num_boxes": shape[:1], "size": (shape[0], 2)} if self._own else {}
        wanted |= {"pos_boxes": (len(file["pos_boxes"]), 2)} if self._adaptive else {}
        for name in wanted.keys() & set(file):
            if file[name].shape != wanted[name]:
                raise InputError(f"{self.path}: {name} is {file[name].shape}, not {wanted[name]} as {features} wants")

    def _opened(self) -> AbstractContextManager[h5py.File]:
        return opened(self.path, remedy="fetch it again")


def _rows_of_images(dataset: h5py.Dataset, bounds: NDArray[np.int64]) -> Iterator[NDArray[Any]]:
    """The rows of each image, `bounds` (N, 2), read in large blocks: a chunk may hold parts of many images."""
    most = max(1, _BLOCK // (math.prod(dataset.shape[1:]) * dataset.dtype.itemsize))
    start = end = 0
    block: NDArray[Any] = np.empty(0)
    for place, (first, last) in enumerate(bounds.tolist()):
        if not start <= first <= last <= end:
            fitting = bounds[place:, 1] - first <= most
            count = len(fitting) if fitting.all() else max(int(fitting.argmin()), 1)
            start, end = first, int(bounds[place : place + count, 1].max())
            block = np.empty(0)  # frees its memory before the next is read
            block = dataset[start:end]
        yield block[first - start : last - start]


def _read_rows(path: Path) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Image ids and rows of an `imgid2idx` pickle, by rising row."""
    content = load_pickle(path)
    try:
        ids, rows = (np.array([int(value) for value in part], np.int64) for part in (content, content.values()))
    except (AttributeError, TypeError, ValueError, OverflowError):
        raise InputError(f"{path}: not a dict from image ids to rows") from None
    if not len(ids):
        raise InputError(f"{path}: holds no image")
    order = np.argsort(rows)
    return ids[order], rows[order]
