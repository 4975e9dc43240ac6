"""Region features in one pickled dict, as the paper's authors keep them: far larger than the memory."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdvqa.conversion.lazy_unpickle import LazyArray, LazyUnpickler, ReadAt, Span
from cdvqa.conversion.sources.record import BOXES, FEATURES, SHARES, Record, RecordSource, find
from cdvqa.conversion.sources.source import FeatureIndex, Report
from cdvqa.data.pickles import refused
from cdvqa.errors import InputError

_TYPES = [np.dtype(order + kind) for kind in ("f2", "f4", "f8") for order in "<>"]


class PickledFeatures(RecordSource):
    """`vqa_img_feature_trainval.pickle`: a dict image id -> {`feats` (n, F), `sp_feats` (n, 4) as shares}.

    The pickle is gone through without its arrays being read, and each array is then read where it stands. Written by
    `tsv2feature.py` of MuKEA and of the paper's code; images have no sizes there.

    Args:
        path: the pickle, of protocol 1 or later.

    Raises:
        InputError: there is no such file.
    """

    format = "pickle"

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise InputError(f"{path}: no such file")
        self.bytes = self.path.stat().st_size

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return path.is_file() and path.suffix in (".pkl", ".pickle")

    @property
    def identity(self) -> dict[str, Any]:
        status = self.path.stat()
        return {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns}

    def scan(self, report: Report) -> Iterator[tuple[Record, Sequence[int]]]:
        with self.path.open("rb") as file:
            read_at = _reader(file.fileno())
            try:
                images = LazyUnpickler(
                    file, self.bytes, read_at, lambda offset: report("checking", offset, self.bytes)
                ).load()
            except Exception as error:  # broken pickles raise whatever their instructions happen to raise
                raise refused(str(self.path), error) from None
            report("checking", self.bytes, self.bytes)
            if not isinstance(images, dict):
                raise InputError(
                    f"{self.path}: holds {type(images).__name__}, not a dict of images with feats and sp_feats"
                )
            for key, fields in images.items():
                where = f"{self.path}: image {' '.join(str(key).split())[:40]}"
                if not isinstance(fields, dict):
                    raise InputError(f"{where}: holds {type(fields).__name__}, not a dict of feats and sp_feats")
                record = Record(where, str(key), fields)
                yield record, _place(record)

    def records(self, index: FeatureIndex) -> Iterator[Record]:
        with self.path.open("rb") as file:
            read_at = _reader(file.fileno())
            for image, size, count, place in zip(*(column.tolist() for column in _columns(index)), strict=True):
                boxes = "sp_feats" if place[0] else "boxes"
                arrays = {"feats": _array(read_at, *place[1:8]), boxes: _array(read_at, *place[8:])}
                sizes = {"image_w": size[0] or None, "image_h": size[1] or None, "num_boxes": count}
                yield Record(f"{self.path}: image {image}", str(image), arrays | sizes)


def _reader(descriptor: int) -> ReadAt:
    return lambda offset, length: os.pread(descriptor, length, offset)


def _columns(index: FeatureIndex) -> tuple[NDArray[np.int64], ...]:
    return index.image_id, index.size, index.num_boxes, index.place


def _place(record: Record) -> list[int]:
    """Whether the boxes are shares by name, and for features and boxes what `_array` wants."""
    features, boxes = find(record, FEATURES), find(record, SHARES + BOXES)
    place = [int(boxes[0] in SHARES)]
    for name, array in (features, boxes):
        if not isinstance(array, LazyArray) or array.dtype not in _TYPES or len(array.shape) != 2:
            raise InputError(f"{record.where}: {name!r} is no table of floating-point numbers")
        span = array.span
        kind = _TYPES.index(array.dtype)
        place += [span.offset, span.length, int(span.escaped), *array.shape, kind, int(array.fortran)]
    return place


def _array(
    read_at: ReadAt, offset: int, length: int, escaped: int, rows: int, columns: int, kind: int, fortran: int
) -> LazyArray:
    return LazyArray(Span(read_at, offset, length, bool(escaped)), (rows, columns), _TYPES[kind], bool(fortran))
