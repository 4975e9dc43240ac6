"""Region features in one HDF5 file, read image by image."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray

from cdvqa.artefacts import write_atomically
from cdvqa.errors import InputError

Batch = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_] | None]


class RegionFeatures:
    """A feature file: `features` (N, R, F) fp16 or fp32, `boxes` (N, R, 4), `image_id` (N,), optional `num_boxes` (N,).

    The layout is checked at once; the file is opened by each process at its first read, so that the reader can be
    pickled and used in forked or spawned workers. A data set stored in one uncompressed piece is read at its offset in
    the file, which is several times faster than through h5py; any other storage is read through h5py.

    Args:
        path: the HDF5 file.

    Raises:
        InputError: the file is missing, no HDF5 or cut off; a data set is missing or has the wrong shape.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with _open(self.path) as file:
            self.shape = _check_shapes(self.path, file)
            self._features = _Rows(self.path, file["features"])
            self._boxes = _Rows(self.path, file["boxes"])
            self.image_id: NDArray[np.int64] = file["image_id"][:].astype(np.int64)
            self._num_boxes: NDArray[np.int64] | None = file["num_boxes"][:] if "num_boxes" in file else None
        self._by_id = np.argsort(self.image_id)
        self._sorted_id = self.image_id[self._by_id]
        self._known_finite = np.zeros(len(self.image_id), bool)
        _check_image_ids(self.path, self._sorted_id)
        if self._num_boxes is not None and not np.all((self._num_boxes > 0) & (self._num_boxes <= self.shape[1])):
            raise InputError(f"{self.path}: num_boxes must lie between 1 and {self.shape[1]}")

    def __len__(self) -> int:
        return len(self.image_id)

    def read(
        self,
        image_ids: ArrayLike,
        question_ids: Sequence[int] | NDArray[np.int64] | None = None,
        out: NDArray[np.float32] | None = None,
    ) -> Batch:
        """Features of B images, in any order and with repeats.

        Args:
            image_ids: (B,).
            question_ids: (B,) the questions asked about them, named in errors.
            out: (B, R, F) float32, filled and returned as features; a buffer that is used again saves its allocation,
                which takes longer than the read.

        Returns:
            features (B, R, F) float32, boxes (B, R, 4) float32, and the region mask (B, R), True on the first
            `num_boxes` regions, or None if the file has no `num_boxes`.

        Raises:
            InputError: an image is not in the file, its features are not finite, or the file is cut off.
        """
        rows = self._rows_of(np.asarray(image_ids, np.int64), question_ids)
        features, boxes = self._features.read(rows, out), self._boxes.read(rows)
        self._check_finite(rows, features)
        if self._num_boxes is None:
            return features, boxes, None
        return features, boxes, np.arange(self.shape[1]) < self._num_boxes[rows, None]

    def fingerprint(self) -> dict[str, Any]:
        """Shape, type and digest (image ids, and the features and boxes of eight images across the file)."""
        digest = hashlib.sha256(self.image_id.tobytes())
        rows = np.unique(np.linspace(0, len(self) - 1, 8).astype(np.int64))
        digest.update(self._features.read(rows).tobytes())
        digest.update(self._boxes.read(rows).tobytes())
        return {"shape": list(self.shape), "dtype": str(self._features.dtype), "sha256": digest.hexdigest()}

    def check_images(self, image_ids: NDArray[np.int64], question_ids: NDArray[np.int64]) -> None:
        """Raise InputError, naming image and question, if an image is not in the file."""
        self._rows_of(image_ids, question_ids)

    def _rows_of(
        self, image_ids: NDArray[np.int64], question_ids: Sequence[int] | NDArray[np.int64] | None
    ) -> NDArray[np.intp]:
        place = np.minimum(np.searchsorted(self._sorted_id, image_ids), len(self) - 1)
        absent = np.flatnonzero(self._sorted_id[place] != image_ids)
        if len(absent):
            asked = "" if question_ids is None else f" (question {question_ids[absent[0]]})"
            raise InputError(f"{self.path}: image {image_ids[absent[0]]}{asked} is not in the feature file")
        return self._by_id[place]

    def _check_finite(self, rows: NDArray[np.intp], features: NDArray[np.float32]) -> None:
        """Look at each image once a process: a pass over memory costs half as much as the read itself."""
        for place in np.flatnonzero(~self._known_finite[rows]):
            if not np.isfinite(features[place]).all():
                raise InputError(f"{self.path}: image {self.image_id[rows[place]]} has NaN or infinite features")
            self._known_finite[rows[place]] = True


class _Rows:
    """Rows of one data set as float32; picklable, opens the file in each process that reads."""

    def __init__(self, path: Path, dataset: h5py.Dataset) -> None:
        self.path = path
        self.name = dataset.name
        self.dtype = dataset.dtype
        self.row_shape: tuple[int, ...] = dataset.shape[1:]
        contiguous = dataset.chunks is None and dataset.dtype.isnative and not dataset.external
        self.offset: int | None = dataset.id.get_offset() if contiguous else None
        self._process = -1
        self._source: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_process": -1, "_source": None}

    def read(self, rows: NDArray[np.intp], out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        if out is None:
            out = np.empty((len(rows), *self.row_shape), np.float32)
        if self._process != os.getpid():  # a forked worker must not share h5py's state with its parent
            self._source = os.open(self.path, os.O_RDONLY) if self.offset is not None else _open(self.path)[self.name]
            self._process = os.getpid()
        if self.offset is None:
            unique, inverse = np.unique(rows, return_inverse=True)  # h5py wants rising, unique rows
            out[:] = self._source[unique][inverse]
        elif self.dtype == np.float32:
            for place, row in enumerate(rows.tolist()):
                self._read_row(row, self.offset, out[place])
        else:
            import torch  # widens fp16 ten times as fast as numpy

            stored = np.empty(self.row_shape, self.dtype)
            for place, row in enumerate(rows.tolist()):
                self._read_row(row, self.offset, stored)
                torch.from_numpy(out[place]).copy_(torch.from_numpy(stored))
        return out

    def _read_row(self, row: int, offset: int, into: NDArray[np.floating]) -> None:
        if os.preadv(self._source, [into.data], offset + row * into.nbytes) != into.nbytes:
            raise InputError(f"{self.path}: the file ends inside {self.name}; make it again with `cdvqa prepare`")


def write_features(
    path: str | Path,
    features: NDArray[np.floating],
    boxes: NDArray[np.floating],
    image_id: NDArray[np.integer],
    size: NDArray[np.integer],
    num_boxes: NDArray[np.integer] | None = None,
) -> None:
    """Write a feature file in the layout of `RegionFeatures`, whole or not at all.

    Args:
        path: the HDF5 file.
        features: (N, R, F) fp16 or fp32, stored as given.
        boxes: (N, R, 4) = x1/w, y1/h, x2/w, y2/h.
        image_id: (N,).
        size: (N, 2) = width, height in pixels.
        num_boxes: (N,) regions in use, where they differ between images.
    """
    with write_atomically(path) as temporary, h5py.File(temporary, "w") as file:
        file["features"] = features
        file["boxes"] = np.asarray(boxes, np.float32)
        file["image_id"] = np.asarray(image_id, np.int64)
        file["size"] = np.asarray(size, np.int64)
        if num_boxes is not None:
            file["num_boxes"] = np.asarray(num_boxes, np.int64)


def _open(path: Path) -> h5py.File:
    if not path.is_file():
        raise InputError(f"{path}: no such feature file; make it with `cdvqa prepare` or point --data.features at it")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise InputError(f"{path}: not a readable HDF5 file ({error}); make it again with `cdvqa prepare`") from None


def _check_shapes(path: Path, file: h5py.File) -> tuple[int, int, int]:
    for name in ("features", "boxes", "image_id"):
        if not isinstance(file.get(name), h5py.Dataset):
            raise InputError(f"{path}: lacks the data set {name!r}; make the file with `cdvqa prepare`")
    if file["features"].ndim != 3 or 0 in file["features"].shape or file["features"].dtype.kind != "f":
        raise InputError(f"{path}: features must be (images, regions, width) floats, not {_describe(file['features'])}")
    n, regions, width = file["features"].shape
    if file["boxes"].shape != (n, regions, 4):
        raise InputError(f"{path}: boxes must be {(n, regions, 4)} like features, not {file['boxes'].shape}")
    for name in ("image_id", "num_boxes"):
        if name in file and (file[name].shape != (n,) or file[name].dtype.kind not in "iu"):
            raise InputError(f"{path}: {name} must be {n} integers, one per image, not {_describe(file[name])}")
    return n, regions, width


def _describe(dataset: h5py.Dataset) -> str:
    return f"{dataset.shape} {dataset.dtype}"


def _check_image_ids(path: Path, sorted_id: NDArray[np.int64]) -> None:
    twice = sorted_id[1:][sorted_id[1:] == sorted_id[:-1]]
    if len(twice):
        raise InputError(f"{path}: image {twice[0]} stands in it twice; make the file again with `cdvqa prepare`")
