"""Region features as they were published: one image a line, fields between tabs, arrays in base64."""

import binascii
import os
import re
import zlib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import pybase64
from numpy.typing import NDArray

from cdvqa.conversion.sources.source import FeatureIndex, FeatureSource, ImageRegions, Progress
from cdvqa.data.visual.image_files import IMAGE_ID
from cdvqa.errors import InputError

_IMAGE_ID = re.compile(IMAGE_ID.encode())
_COUNT = re.compile(rb"0*[1-9]\d{0,8}")
_PIECE = 1 << 22  # bytes read at once
_LONGEST_LINE = 1 << 26  # bytes; a line of 36 × 2048 floats has 0.4 MB, and no line may fill the memory


class TsvRow(NamedTuple):
    """One image: its line, split but not decoded."""

    where: str
    """File, line and image, as an error names them."""
    cut: bool
    """Whether the file ends with this line, without a line break."""
    image_id: int
    width: int
    height: int
    num_boxes: int
    boxes: slice
    """Location of the base64 in the buffer that was split."""
    features: slice

    def decode(self, field: Literal["boxes", "features"], buffer: bytearray) -> NDArray[np.float32]:
        """`boxes` (num_boxes, 4) in pixels, or `features` (num_boxes, F).

        Raises:
            InputError: the field is not base64, or not `num_boxes` rows of float32.
        """
        try:
            content = pybase64.b64decode(memoryview(buffer)[getattr(self, field)], validate=True)
        except binascii.Error as error:
            raise self.refusal(f"{field!r} is not base64 ({error})") from None
        if not content or len(content) % (4 * self.num_boxes) or (field == "boxes" and len(content) != _size(self, 4)):
            raise self.disagrees(field, len(content))
        return np.frombuffer(content, "<f4").reshape(self.num_boxes, -1)

    def disagrees(self, field: str, size: int) -> InputError:
        return self.refusal(f"num_boxes is {self.num_boxes}, but {field!r} holds {size} bytes")

    def refusal(self, what: str) -> InputError:
        return refusal(self.where, what, self.cut)


class FeatureTsv(FeatureSource):
    """A TSV of region features; no more than one line, or a piece of a few MB, is in memory.

    Args:
        path: the file.

    Raises:
        InputError: the file is missing or empty, or its first line does not fit the format.
    """

    columns: ClassVar[tuple[str, ...]]
    """Names of the fields; the last one is `features`."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise InputError(f"{path}: not a file; --input is a TSV of region features")
        self.bytes = self.path.stat().st_size
        for buffer, start, end, _ in self._lines():
            first = self._split(buffer, start, end, 1, cut=end == self.bytes)
            self.region_width = first.decode("features", buffer).shape[1]
            return
        raise InputError(f"{path}: the file is empty")

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """By the number of fields in the first line."""
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.readline(_LONGEST_LINE).count(b"\t") == len(cls.columns) - 1

    @property
    def identity(self) -> dict[str, Any]:
        """Its size and its time of change."""
        status = self.path.stat()
        return {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns}

    def index(self, progress: Progress) -> FeatureIndex:
        """Read the whole file once without decoding it; `place` is (N, 3): offset, bytes and number of the line.

        Raises:
            InputError: a line is cut or malformed, its arrays are not as long as it says, or an image is duplicate.
        """
        lines: dict[int, int] = {}
        sizes, counts, places = [], [], []
        for number, (buffer, start, end, offset) in enumerate(self._lines(), 1):
            row = self._split(buffer, start, end, number, cut=offset + end - start == self.bytes)
            self._check_sizes(row, buffer)
            if row.image_id in lines:
                raise row.refusal(f"duplicate image, first in line {lines[row.image_id]}; remove one")
            lines[row.image_id] = number
            sizes.append((row.width, row.height))
            counts.append(row.num_boxes)
            places.append((offset, end - start, number))
            progress("checking", offset, self.bytes)
        progress("checking", self.bytes, self.bytes)
        image_id, size, num_boxes, place = (np.array(part, np.int64) for part in (list(lines), sizes, counts, places))
        return FeatureIndex(image_id, size, num_boxes, self.region_width, place)

    def images(self, index: FeatureIndex) -> Iterator[ImageRegions]:
        line = bytearray(int(index.place[:, 1].max()))
        with self.path.open("rb", buffering=0) as file:
            for offset, length, number in index.place.tolist():
                if os.preadv(file.fileno(), [memoryview(line)[:length]], offset) != length:
                    raise InputError(
                        f"{self.path}: the file changed while it was read; start again when it is complete"
                    )
                row = self._split(line, 0, length, number, cut=offset + length == self.bytes)
                features, boxes = row.decode("features", line), row.decode("boxes", line)
                if features.shape[1] != self.region_width:
                    raise row.disagrees("features", features.nbytes)
                scale = np.array([row.width, row.height, row.width, row.height], np.float32)
                yield ImageRegions(row.where, features, boxes / scale)

    def _lines(self) -> Iterator[tuple[bytearray, int, int, int]]:
        """For each line a buffer, its start and end in there (without the line break), and its offset in the file.

        The CRC-32 of what is read is kept as `digest`. Reading into one buffer costs less than mapping the file, and a
        file that shrinks meanwhile does no harm.
        """
        buffer, filled, base, crc = bytearray(_PIECE), 0, 0, 0
        with self.path.open("rb", buffering=0) as file:
            while count := file.readinto(memoryview(buffer)[filled:]):
                crc = zlib.crc32(memoryview(buffer)[filled : filled + count], crc)
                filled, start = filled + count, 0
                while (end := buffer.find(b"\n", start, filled)) >= 0:
                    yield buffer, start, end, base + start
                    start = end + 1
                buffer[: filled - start] = buffer[start:filled]
                base, filled = base + start, filled - start
                if filled == len(buffer):
                    if filled >= _LONGEST_LINE:
                        raise InputError(f"{self.path}: {filled:,} bytes without a line break; no {self.format} TSV")
                    buffer = buffer + bytes(filled)
        if filled:
            yield buffer, 0, filled, base
        self.digest = f"crc32 {crc:08x}"

    def _split(self, buffer: bytearray, start: int, end: int, number: int, cut: bool) -> TsvRow:
        """Find the fields of the line in `buffer[start:end]` without copying the long ones.

        Raises:
            InputError: there are too few or too many fields, or one that must be a whole number is none.
        """
        if buffer.endswith(b"\r", start, end):
            end -= 1
        edges = [start - 1]
        for _ in self.columns[1:]:
            edges.append(buffer.find(b"\t", edges[-1] + 1, end))
        edges.append(end)
        fields = [slice(left + 1, right) for left, right in pairwise(edges)]
        image = _IMAGE_ID.fullmatch(buffer, start, edges[1])
        where = f"{self.path}: line {number}" + (f" (image {int(image[1])})" if image else "")
        if min(edges[1:-1]) < 0 or buffer.find(b"\t", edges[-2] + 1, end) >= 0:
            count = buffer.count(b"\t", start, end) + 1
            raise refusal(where, f"{count} tab-separated fields, not {len(fields)} as in {self.format}", cut)
        if not image:
            raise refusal(where, f"image_id must be a whole number, not {bytes(buffer[fields[0]][:40])!r}", cut)
        named = dict(zip(self.columns, fields, strict=True))
        numbers = {}
        for name in ("width", "height", "num_boxes"):
            text = bytes(buffer[named[name]])
            if not _COUNT.fullmatch(text):
                raise refusal(where, f"{name} must be a positive whole number, not {text[:40]!r}", cut)
            numbers[name] = int(text)
        width, height, num_boxes = (numbers[name] for name in ("width", "height", "num_boxes"))
        return TsvRow(where, cut, int(image[1]), width, height, num_boxes, named["boxes"], named["features"])

    def _check_sizes(self, row: TsvRow, buffer: bytearray) -> None:
        """Raise InputError unless both arrays are as long as `num_boxes` says; decodes only what looks wrong."""
        widths: dict[Literal["boxes", "features"], int] = {"boxes": 4, "features": self.region_width}
        for field, width in widths.items():
            place: slice = getattr(row, field)
            if place.stop - place.start != 4 * -(-_size(row, width) // 3):
                raise row.disagrees(field, row.decode(field, buffer).nbytes)


class BottomUpTsv(FeatureTsv):
    """`trainval2014_36` and its like, as published with bottom-up attention."""

    format = "bottom-up"
    columns = ("image_id", "width", "height", "num_boxes", "boxes", "features")


class LxmertTsv(FeatureTsv):
    """`obj36` files, as published with LXMERT."""

    format = "lxmert"
    columns = (
        *("image_id", "height", "width", "objects_id", "objects_conf", "attrs_id", "attrs_conf"),
        *("num_boxes", "boxes", "features"),
    )


def refusal(where: str, what: str, cut: bool) -> InputError:
    """The error for a wrong line; one that the file ends in was most likely cut by a broken transfer."""
    return InputError(f"{where}: {what}" + ("; the file ends within this line, fetch it again" if cut else ""))


def _size(row: TsvRow, width: int) -> int:
    return 4 * width * row.num_boxes
