"""Region features in one HDF5 file, read image by image."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray

from cdvqa.data.visual.fingerprint import measure, sample_rows
from cdvqa.data.visual.rows import Rows, opened, own_dataset
from cdvqa.errors import InputError
from cdvqa.files import write_atomically

FORMAT, VERSION = "cdvqa region features", 1

_BLOCK = 4  # images that are read and then checked together
Batch = tuple[NDArray[np.floating], NDArray[np.float32], NDArray[np.bool_] | None]


class RegionFeatures:
    """A feature file: `features` (N, R, F) fp16 or fp32, `boxes` (N, R, 4), `image_id` (N,), optional `num_boxes` (N,).

    A data set stored in one uncompressed piece is read at its offset in the file; any other storage is read through
    h5py, which is several times slower. The reader can be used by several threads at once, by forked processes, and
    pickled. Features keep the type they are stored in, `dtype`: `VQABatch.widened` makes fp32 of them on the device.

    Args:
        path: the HDF5 file.

    Raises:
        InputError: the file is missing, no HDF5, cut off or of a later version; a data set is missing or has the wrong
            shape; or the memory available is too small.
    """

    option = "--data.features"
    gives = "features"

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with opened(self.path) as file:
            _check_version(self.path, file)
            stored = _checked_datasets(self.path, file)
            self.shape: tuple[int, int, int] = stored["features"].shape
            self.image_id: NDArray[np.int64] = stored["image_id"][:].astype(np.int64)
            self._num_boxes: NDArray[np.int64] | None = stored["num_boxes"][:] if "num_boxes" in stored else None
            self._features, self._boxes = Rows(self.path, stored["features"]), Rows(self.path, stored["boxes"])
            self.dtype = self._features.dtype
            self._stored_fingerprint: dict[str, Any] | None = None
            if text_attribute(file, "format") == FORMAT:
                self._stored_fingerprint = dict(json.loads(file.attrs["fingerprint"]))
        self._by_id = np.argsort(self.image_id)
        self._sorted_id = self.image_id[self._by_id]
        self._known_finite = np.zeros(len(self.image_id), bool)
        _check_image_ids(self.path, self._sorted_id)
        if self._num_boxes is not None and not np.all((self._num_boxes > 0) & (self._num_boxes <= self.shape[1])):
            raise InputError(f"{self.path}: num_boxes must lie between 1 and {self.shape[1]}")

    def __reduce__(self) -> tuple[object, ...]:
        return RegionFeatures, (self.path,)

    def __len__(self) -> int:
        return len(self.image_id)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(R, F)."""
        return self.shape[1:]

    def read(
        self,
        image_ids: ArrayLike,
        question_ids: Sequence[int] | NDArray[np.int64] | None = None,
        out: NDArray[np.floating] | None = None,
    ) -> Batch:
        """Features of B images, in any order and with repeats.

        Args:
            image_ids: (B,).
            question_ids: (B,) the questions asked about them, named in errors.
            out: (B, R, F) of type `dtype`, filled and returned as features; a buffer that is used again saves its
                allocation, which takes longer than the read.

        Returns:
            features (B, R, F) of type `dtype`, boxes (B, R, 4) float32, and the region mask (B, R), True on the first
            `num_boxes` regions, or None if the file has no `num_boxes`.

        Raises:
            InputError: an image is not in the file, its features are not finite, or the file is cut off.
        """
        rows = self._rows_of(np.asarray(image_ids, np.int64), question_ids)
        features = np.empty((len(rows), *self.shape[1:]), self.dtype) if out is None else out
        boxes = np.empty((len(rows), self.shape[1], 4), self._boxes.dtype)
        self._boxes.read(rows, boxes)
        if not np.isfinite(boxes).all():
            image = self.image_id[rows[~np.isfinite(boxes).all((1, 2))][0]]
            raise InputError(f"{self.path}: image {image} has NaN or infinite boxes")
        self._read_features(rows, features)
        mask = None if self._num_boxes is None else np.arange(self.shape[1]) < self._num_boxes[rows, None]
        return features, boxes.astype(np.float32, copy=False), mask

    def fields(
        self,
        image_ids: NDArray[np.int64],
        question_ids: NDArray[np.int64],
        epoch: int,
        out: NDArray[Any] | None,
    ) -> dict[str, NDArray[Any]]:
        """`region_features`, `boxes` and `region_mask` of a batch; see `VisualSource.fields`."""
        features, boxes, mask = self.read(image_ids, question_ids, out)
        fields = {"region_features": features, "boxes": boxes}
        return fields if mask is None else fields | {"region_mask": mask}

    def fingerprint(self) -> dict[str, Any]:
        """What distinguishes these features from others.

        `shape`, `dtype`, `sample_sha256` (of the image ids, and the features and boxes of eight images across the
        file), and what `cdvqa prepare features` stored in it: `extractor`, `source_digest` of its input, and the norms,
        box range and region order of `cdvqa.data.visual.fingerprint`. A file that it did not
        make is measured here, on the same sample of its images.
        """
        digest = hashlib.sha256(self.image_id.tobytes())
        rows = np.unique(np.linspace(0, len(self) - 1, 8).astype(np.intp))
        for array in self.read(self.image_id[rows])[:2]:
            digest.update(array.tobytes())
        known = self._stored_fingerprint or self._measure()
        return known | {"shape": list(self.shape), "dtype": str(self.dtype), "sample_sha256": digest.hexdigest()}

    def check_images(self, image_ids: NDArray[np.int64], question_ids: NDArray[np.int64]) -> None:
        """Raise InputError, naming image and question, if an image is not in the file."""
        self._rows_of(image_ids, question_ids)

    def _measure(self) -> dict[str, Any]:
        rows = np.arange(len(self))[sample_rows(len(self))]
        features, boxes, _ = self.read(self.image_id[rows])
        return measure(features, boxes, None if self._num_boxes is None else self._num_boxes[rows])

    def _rows_of(
        self, image_ids: NDArray[np.int64], question_ids: Sequence[int] | NDArray[np.int64] | None
    ) -> NDArray[np.intp]:
        position = np.minimum(np.searchsorted(self._sorted_id, image_ids), len(self) - 1)
        absent = np.flatnonzero(self._sorted_id[position] != image_ids)
        if len(absent):
            asked = "" if question_ids is None else f" (question {question_ids[absent[0]]})"
            raise InputError(f"{self.path}: image {image_ids[absent[0]]}{asked} is not in the feature file")
        return self._by_id[position]

    def _read_features(self, rows: NDArray[np.intp], out: NDArray[np.floating]) -> None:
        """Read features; check each image once per process, while it is still in the processor's cache."""
        unseen = not self._known_finite[rows].all()
        step = _BLOCK if unseen else max(len(rows), 1)
        for start in range(0, len(rows), step):
            block = slice(start, start + step)
            self._features.read(rows[block], out[block])
            if unseen:
                self._check_finite(rows[block], out[block])

    def _check_finite(self, rows: NDArray[np.intp], features: NDArray[np.floating]) -> None:
        for index in np.flatnonzero(~self._known_finite[rows]):
            if not _all_finite(features[index]):
                raise InputError(f"{self.path}: image {self.image_id[rows[index]]} has NaN or infinite features")
            self._known_finite[rows[index]] = True


def _all_finite(array: NDArray[np.floating]) -> bool:
    if array.dtype != np.float16:
        return bool(np.isfinite(array).all())
    # numpy has no fast fp16: compare the bits, where Inf and NaN are the largest of either sign.
    return bool(array.view(np.int16).max() < 0x7C00 and array.view(np.uint16).max() < 0xFC00)


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


def text_attribute(file: h5py.File, name: str) -> str | None:
    """An attribute of a file, where it has it, that is stored as bytes or as text."""
    value = file.attrs.get(name)
    return value.decode() if isinstance(value, bytes) else value


def _check_version(path: Path, file: h5py.File) -> None:
    version = file.attrs.get("version")
    own = text_attribute(file, "format") in (None, FORMAT) and isinstance(version, int | np.integer)
    if own and version > VERSION:
        raise InputError(
            f"{path}: a file of version {version}, and this cdvqa reads up to {VERSION}; update cdvqa, or make the "
            "file again with `cdvqa prepare`"
        )


def _checked_datasets(path: Path, file: h5py.File) -> dict[str, h5py.Dataset]:
    found = {name: own_dataset(path, file, name) for name in ("features", "boxes", "image_id", "num_boxes")}
    stored = {name: dataset for name, dataset in found.items() if dataset is not None}
    for name in ("features", "boxes", "image_id"):
        if name not in stored:
            raise InputError(f"{path}: lacks the data set {name!r}; make the file with `cdvqa prepare`")
    kinds = {name: (dataset.shape, dataset.dtype) for name, dataset in stored.items()}
    shape, dtype = kinds["features"]
    if len(shape) != 3 or 0 in shape or dtype.kind != "f":
        raise InputError(f"{path}: features must be (images, regions, width) floats, not {shape} {dtype}")
    if kinds["boxes"][0] != (*shape[:2], 4) or kinds["boxes"][1].kind != "f":
        raise InputError(f"{path}: boxes must be {(*shape[:2], 4)} floats like features, not {kinds['boxes'][0]}")
    for name in stored.keys() - {"features", "boxes"}:
        if kinds[name][0] != shape[:1] or kinds[name][1].kind not in "iu":
            raise InputError(f"{path}: {name} must be {shape[0]} integers, one per image, not {kinds[name][0]}")
    return stored


def _check_image_ids(path: Path, sorted_id: NDArray[np.int64]) -> None:
    twice = sorted_id[1:][sorted_id[1:] == sorted_id[:-1]]
    if len(twice):
        raise InputError(f"{path}: duplicate image {twice[0]}; make the file again with `cdvqa prepare`")
