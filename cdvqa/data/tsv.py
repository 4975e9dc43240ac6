"""Region features as they are published: one image a line, fields between tabs, arrays in base64."""

import binascii
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cdvqa.errors import InputError

TsvFormat = Literal["bottom-up", "lxmert"]
ArrayField = Literal["boxes", "features"]
Report = Callable[[str, int, int], None]
"""Told what is being done, how many bytes of the input are done, and of how many."""

FIELDS: dict[TsvFormat, tuple[str, ...]] = {
    "bottom-up": ("image_id", "width", "height", "num_boxes", "boxes", "features"),
    "lxmert": (
        *("image_id", "height", "width", "objects_id", "objects_conf", "attrs_id", "attrs_conf"),
        *("num_boxes", "boxes", "features"),
    ),
}
_IMAGE_ID = re.compile(rb"(?:\w+_)?(\d{1,18})")  # a number, or COCO_train2014_000000318556 as LXMERT writes it
_LONGEST_LINE = 1 << 26  # bytes; a line of 36 × 2048 floats has 0.4 MB, and no line may fill the memory


@dataclass(frozen=True)
class TsvRow:
    """One image: its line, split but not decoded."""

    where: str
    """File, line and image, as an error names them."""
    end: int
    """Byte offset of the next line."""
    cut: bool
    """Whether the file ends within this line, at least without a line break."""
    image_id: int
    width: int
    height: int
    num_boxes: int
    boxes: bytes
    features: bytes

    def decode(self, field: ArrayField) -> NDArray[np.float32]:
        """`boxes` (num_boxes, 4) in pixels, or `features` (num_boxes, F).

        Raises:
            InputError: the field is not base64, or not `num_boxes` rows of float32.
        """
        try:
            content = binascii.a2b_base64(getattr(self, field), strict_mode=True)
        except binascii.Error as error:
            raise refusal(self.where, f"{field!r} is not base64 ({error})", self.cut) from None
        wrong_width = field == "boxes" and len(content) != 16 * self.num_boxes
        if not content or len(content) % (4 * self.num_boxes) or wrong_width:
            raise self.disagrees(field, len(content))
        return np.frombuffer(content, "<f4").reshape(self.num_boxes, -1)

    def disagrees(self, field: str, size: int) -> InputError:
        return refusal(self.where, f"num_boxes is {self.num_boxes}, but {field!r} holds {size} bytes", self.cut)

    def check_sizes(self, region_width: int) -> None:
        """Raise InputError unless both fields are as long as `num_boxes` says; decodes only what looks wrong."""
        widths: dict[ArrayField, int] = {"boxes": 4, "features": region_width}
        for field, width in widths.items():
            size = 4 * width * self.num_boxes
            if len(getattr(self, field)) != 4 * -(-size // 3):
                raise self.disagrees(field, self.decode(field).nbytes)


class TsvIndex(NamedTuple):
    """What the lines say before their arrays are decoded: N images, in the order of the file."""

    image_id: NDArray[np.int64]
    size: NDArray[np.int64]
    """(N, 2) = width, height in pixels."""
    num_boxes: NDArray[np.int64]


class FeatureTsv:
    """A TSV of region features, read line by line; no more than one line is in memory.

    Args:
        path: the file.
        format: its columns; `auto` decides by the number of fields in the first line.

    Raises:
        InputError: the file is missing or empty, or its first line fits no format.
    """

    def __init__(self, path: str | Path, format: Literal["auto"] | TsvFormat = "auto") -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise InputError(f"{path}: no such file; --input is a TSV of region features")
        self.bytes = self.path.stat().st_size
        self.format: TsvFormat = self._recognise() if format == "auto" else format
        first = next(self.rows())
        self.region_width = first.decode("features").shape[1]

    @property
    def identity(self) -> dict[str, int]:
        """What tells this file from another: its size and its time of change."""
        status = self.path.stat()
        return {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns}

    def rows(self, offset: int = 0, line: int = 1) -> Iterator[TsvRow]:
        """The rows from byte `offset` on, which is the start of line number `line`.

        Raises:
            InputError: a line does not have the format's fields, or a field that must be a whole number is none.
        """
        for number, (content, end) in enumerate(self._lines(offset), line):
            yield self._parse(content, end, number)

    def index(self, report: Report) -> TsvIndex:
        """Read the whole file once without decoding it: sizes and ids, checked.

        Raises:
            InputError: a line is cut or malformed, its arrays are not as long as it says, or an image stands twice.
        """
        lines: dict[int, int] = {}
        sizes, counts = [], []
        for number, row in enumerate(self.rows(), 1):
            row.check_sizes(self.region_width)
            if row.image_id in lines:
                raise InputError(f"{row.where}: this image stands in line {lines[row.image_id]} too; remove one")
            lines[row.image_id] = number
            sizes.append((row.width, row.height))
            counts.append(row.num_boxes)
            report("checking", row.end, self.bytes)
        return TsvIndex(np.array(list(lines), np.int64), np.array(sizes, np.int64), np.array(counts, np.int64))

    def _lines(self, offset: int) -> Iterator[tuple[bytes, int]]:
        with self.path.open("rb", buffering=1 << 20) as file:
            file.seek(offset)
            while content := file.readline(_LONGEST_LINE):
                offset += len(content)
                yield content, offset

    def _recognise(self) -> TsvFormat:
        first, _ = next(self._lines(0), (b"", 0))
        if not first:
            raise InputError(f"{self.path}: the file is empty")
        fields = first.count(b"\t") + 1
        for format, names in FIELDS.items():
            if len(names) == fields:
                return format
        wanted = " or ".join(f"{len(names)} ({format})" for format, names in FIELDS.items())
        raise refusal(f"{self.path}: line 1", f"{fields} tab-separated fields, not {wanted}", not first.endswith(b"\n"))

    def _parse(self, content: bytes, end: int, number: int) -> TsvRow:
        where, cut = f"{self.path}: line {number}", not content.endswith(b"\n")
        fields = content.rstrip(b"\r\n").split(b"\t")
        image = _IMAGE_ID.fullmatch(fields[0])
        where += f" (image {int(image[1])})" if image else ""
        names = FIELDS[self.format]
        if len(fields) != len(names):
            raise refusal(where, f"{len(fields)} tab-separated fields, not {len(names)} as in {self.format}", cut)
        if not image:
            raise refusal(where, f"image_id must be a whole number, not {fields[0][:40]!r}", cut)
        named = dict(zip(names, fields, strict=True))
        numbers = {}
        for name in ("width", "height", "num_boxes"):
            if not re.fullmatch(rb"0*[1-9]\d{0,8}", named[name]):
                raise refusal(where, f"{name} must be a positive whole number, not {named[name][:40]!r}", cut)
            numbers[name] = int(named[name])
        return TsvRow(
            where, end, cut, image_id=int(image[1]), boxes=named["boxes"], features=named["features"], **numbers
        )


def refusal(where: str, what: str, cut: bool) -> InputError:
    """The error for a wrong line; one that the file ends in was most likely cut by a broken transfer."""
    return InputError(f"{where}: {what}" + ("; the file ends within this line, fetch it again" if cut else ""))
