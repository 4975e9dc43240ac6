"""Inputs that store each image as a record of named fields; the names differ between publishers."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pybase64
from numpy.typing import NDArray

from cdvqa.conversion.sources.source import FeatureIndex, FeatureSource, ImageRegions, Progress
from cdvqa.data.visual.image_files import image_number
from cdvqa.errors import InputError

FEATURES = ("features", "x", "feats", "feat", "image_features")
SHARES = ("sp_feats", "norm_bb")  # boxes as shares of the image's width and height; UNITER's have further columns
BOXES = ("bbox", "boxes", "image_bb")  # boxes in pixels, or as shares
_TEXT = (str, bytes, memoryview)
_COUNT = ("num_boxes", "num_bbox")
_WIDTH = ("image_w", "image_width", "img_w", "width")
_HEIGHT = ("image_h", "image_height", "img_h", "height")


class Stored(NamedTuple):
    """An array that is not read before it is needed."""

    shape: tuple[int, ...]
    read: Callable[[], NDArray[Any]]


class ImageRecord(NamedTuple):
    """One image of the input."""

    where: str
    """File and record, as an error names them."""
    name: str
    """What the image's id is read from; see `image_number`."""
    fields: Mapping[str, Any]
    """Numbers, text, and arrays, some of them `Stored`."""


class Outline(NamedTuple):
    """The contents of a record as far as they are known without reading its arrays."""

    image_id: int
    size: tuple[int, int]
    num_boxes: int
    region_width: int
    transposed: bool


class RecordSource(FeatureSource):
    """A source of records."""

    @abstractmethod
    def scan(self, progress: Progress) -> Iterator[tuple[ImageRecord, int | tuple[int, ...]]]:
        """All records with their `FeatureIndex.place`, arrays unread; reports to `progress`."""

    @abstractmethod
    def records(self, index: FeatureIndex) -> Iterator[ImageRecord]:
        """The records of these images; the arrays of each can be read until the next record is requested."""

    def index(self, progress: Progress) -> FeatureIndex:
        seen: dict[int, str] = {}
        outlines: list[Outline] = []
        places: list[int | tuple[int, ...]] = []
        for record, place in self.scan(progress):
            found = outline(record, outlines[0].region_width if outlines else None)
            if found.image_id in seen:
                raise InputError(f"{record.where}: image {found.image_id} is in {seen[found.image_id]} too; remove one")
            if outlines and found.region_width != outlines[0].region_width:
                first = f"{outlines[0].region_width} as in {next(iter(seen.values()))}"
                raise InputError(f"{record.where}: features are {found.region_width} wide, not {first}")
            seen[found.image_id] = record.where
            outlines.append(found)
            places.append(place)
        if not outlines:
            raise InputError(f"{self.path}: holds no image")
        ids, sizes, counts, widths, _ = zip(*outlines, strict=True)
        image_id, size, num_boxes, location = (np.array(column, np.int64) for column in (ids, sizes, counts, places))
        return FeatureIndex(image_id, size, num_boxes, widths[0], location)

    def images(self, index: FeatureIndex) -> Iterator[ImageRegions]:
        for record, number, count in zip(self.records(index), index.image_id, index.num_boxes, strict=True):
            found = outline(record, index.region_width)
            if (found.image_id, found.num_boxes, found.region_width) != (number, count, index.region_width):
                raise InputError(f"{record.where}: it changed while it was read; start again when it is complete")
            yield regions(record, found)


def outline(record: ImageRecord, region_width: int | None) -> Outline:
    """The outline of a record; features in base64 are taken to be `region_width` wide where that is given.

    Features may be stored regions × width or, as openvqa does, width × regions. Where there are more rows of features
    than `num_boxes` says, the others are padding.

    Raises:
        InputError: a field is missing, is not what its name says, or does not fit the others.
    """
    image_id = image_number(record.name)
    if image_id is None:
        raise InputError(f"{record.where}: {record.name[:40]!r} holds no image id (a number, COCO_…_number, n161313)")
    size = _whole(record, _WIDTH), _whole(record, _HEIGHT)
    count = _whole(record, _COUNT)
    name, features = first_field(record, FEATURES)
    if not isinstance(features, np.ndarray | Stored):  # base64 of float32
        if not count:
            raise InputError(f"{record.where}: holds no num_boxes, which {name!r} needs")
        width = region_width or _array(record, name, features, count).shape[1]
        for field, text, columns in ((name, features, width), (*first_field(record, SHARES + BOXES), 4)):
            if isinstance(text, _TEXT) and len(text) != 4 * -(-4 * columns * count // 3):
                found = _array(record, field, text, 1).nbytes
                raise InputError(f"{record.where}: num_boxes is {count}, but {field!r} holds {found} bytes")
        return Outline(image_id, size, count, width, False)
    stored = _box_rows(record)
    if len(features.shape) != 2 or stored not in features.shape:
        raise InputError(f"{record.where}: {name!r} is {features.shape}, which does not fit {stored} boxes")
    if count > stored:
        raise InputError(f"{record.where}: num_boxes is {count}, but there are {stored} boxes")
    transposed = features.shape[0] != stored
    width = features.shape[0 if transposed else 1]
    if not width or not stored:
        raise InputError(f"{record.where}: {name!r} is empty")
    return Outline(image_id, size, count or stored, width, transposed)


def regions(record: ImageRecord, found: Outline) -> ImageRegions:
    """Features and boxes of a record.

    Raises:
        InputError: they cannot be read, or boxes are in pixels and the image's size is unknown or wrong.
    """
    name, stored = first_field(record, FEATURES)
    features = _array(record, name, stored, found.num_boxes)
    features = (features.T if found.transposed else features)[: found.num_boxes]
    if features.shape != (found.num_boxes, found.region_width):
        raise InputError(f"{record.where}: {name!r} is {features.shape}, not {(found.num_boxes, found.region_width)}")
    name, stored = first_field(record, SHARES + BOXES)
    with np.errstate(over="ignore"):  # too large values become infinite, as which they are refused later
        boxes = _array(record, name, stored, found.num_boxes)[: found.num_boxes, :4].astype(np.float32)
    if boxes.shape != (found.num_boxes, 4):
        raise InputError(f"{record.where}: {name!r} is {boxes.shape}, not {(found.num_boxes, 4)}")
    return ImageRegions(record.where, features, boxes if name in SHARES else shares(record.where, boxes, found.size))


def shares(where: str, boxes: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Boxes (n, 4) in pixels as shares of width and height; boxes that all lie within 1.5 pixels are shares already.

    Raises:
        InputError: the size is unknown (0), or boxes reach so far out of the image that it must be wrong.
    """
    if not boxes.max() > 1.5:  # true for NaN, which `store` refuses
        return boxes
    if not all(size):
        raise InputError(f"{where}: boxes are in pixels and the image's width and height are missing")
    scaled: NDArray[np.float32] = np.divide(boxes, [*size, *size], dtype=np.float32)
    if scaled.max() > 1.1 or scaled.min() < -0.1:
        raise InputError(f"{where}: boxes reach out of the image of {size[0]} x {size[1]} pixels; its size is wrong")
    return scaled


def first_field(record: ImageRecord, names: tuple[str, ...]) -> tuple[str, Any]:
    """Name and content of the first of these fields that the record has."""
    for name in names:
        if record.fields.get(name) is not None:
            return name, record.fields[name]
    there = " ".join(", ".join(sorted(map(str, record.fields))).split()) or "nothing"
    raise InputError(f"{record.where}: holds no {' or '.join(names)}, but {there[:200]}")


def _box_rows(record: ImageRecord) -> int:
    """How many boxes a record has; InputError if its boxes are no table."""
    name, boxes = first_field(record, SHARES + BOXES)
    shape: tuple[int, ...] = getattr(boxes, "shape", ())
    columns = (4, 6, 7) if name == "norm_bb" else (4,)
    if len(shape) != 2 or shape[1] not in columns:
        raise InputError(f"{record.where}: {name!r} is {shape or type(boxes).__name__}, not one row of 4 numbers a box")
    return shape[0]


def _whole(record: ImageRecord, names: tuple[str, ...]) -> int:
    """The first of these fields as a positive whole number; 0 where the record has none of them."""
    name = next((name for name in names if record.fields.get(name) is not None), None)
    if name is None:
        return 0
    try:
        content = _content(record.fields[name])
        number = float(content if isinstance(content, bytes) else np.asarray(content).reshape(()))
    except Exception:  # each way of storing a number fails in its own way
        number = 0
    if not (0 < number < 1e9 and number.is_integer()):
        raise InputError(f"{record.where}: {name} must be a positive whole number")
    return int(number)


def _array(record: ImageRecord, name: str, stored: Any, rows: int) -> NDArray[Any]:
    """A field's array, of `rows` rows where it is in base64."""
    try:
        content = _content(stored)
        if not isinstance(content, np.ndarray):
            content = np.frombuffer(pybase64.b64decode(content, validate=True), "<f4").reshape(rows, -1)
        array: NDArray[Any] = content
    except Exception as error:  # zipfile, zlib, numpy and base64 raise many kinds
        raise InputError(f"{record.where}: {name!r} cannot be read ({error!s:.200})") from None
    if array.dtype.kind not in "fiu" or array.ndim != 2 or not array.size:
        raise InputError(f"{record.where}: {name!r} is {array.dtype} {array.shape}, not a table of numbers")
    return array


def _content(value: Any) -> Any:
    return value.read() if isinstance(value, Stored) else value
