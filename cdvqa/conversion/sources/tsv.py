"""Region features as they were published: one image a line, fields between tabs, arrays in base64."""

import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from cdvqa.conversion.sources.record import ImageRecord, RecordSource
from cdvqa.conversion.sources.source import FeatureIndex, Progress
from cdvqa.errors import InputError

_PIECE = 1 << 22  # bytes read at once
_LONGEST_LINE = 1 << 26  # bytes; a line of 36 × 2048 floats has 0.4 MB, and no line may fill the memory
_SHORT = 32  # a field of at most so many bytes, a number, is copied


class FeatureTsv(RecordSource):
    """A TSV of region features; no more than one line, or a piece of a few MB, is in memory.

    Args:
        path: the file.

    Raises:
        InputError: the file is missing.
    """

    columns: ClassVar[tuple[str, ...]]
    """Names of the fields; the first one is the image's id."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise InputError(f"{path}: not a file; --input is a TSV of region features")
        self.bytes = self.path.stat().st_size

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """By the number of fields in the first line."""
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.readline(_LONGEST_LINE).count(b"\t") == len(cls.columns) - 1

    def scan(self, progress: Progress) -> Iterator[tuple[ImageRecord, tuple[int, int, int]]]:
        """The records; a place is offset, bytes and number of the line."""
        for number, (buffer, start, end, offset) in enumerate(self._lines(), 1):
            yield self._record(buffer, start, end, offset, number), (offset, end - start, number)
            progress("checking", offset, self.bytes)
        progress("checking", self.bytes, self.bytes)

    def records(self, index: FeatureIndex) -> Iterator[ImageRecord]:
        line = bytearray(int(index.place[:, 1].max()))
        with self.path.open("rb", buffering=0) as file:
            for offset, length, number in index.place.tolist():
                if os.preadv(file.fileno(), [memoryview(line)[:length]], offset) != length:
                    raise InputError(
                        f"{self.path}: the file changed while it was read; start again when it is complete"
                    )
                yield self._record(line, 0, length, offset, number)

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

    def _record(self, buffer: bytearray, start: int, end: int, offset: int, number: int) -> ImageRecord:
        """The line in `buffer[start:end]`; its long fields are not copied."""
        cut = "; the file ends within this line" if offset + end - start == self.bytes else ""
        end -= buffer.endswith(b"\r", start, end)
        edges = [start - 1]
        while len(edges) <= len(self.columns) and (edge := buffer.find(b"\t", edges[-1] + 1, end)) >= 0:
            edges.append(edge)
        name = buffer[start : [*edges, end][1]][:100].decode("latin1")
        where = f"{self.path}: line {number} (image {name[:40]}{cut})"
        if len(edges) != len(self.columns):
            found = buffer.count(b"\t", start, end) + 1
            raise InputError(f"{where}: {found} tab-separated fields, not {len(self.columns)} as in {self.format}")
        line, fields = memoryview(buffer), {}
        for column, left, right in zip(self.columns, edges, [*edges[1:], end], strict=True):
            field = line[left + 1 : right]
            fields[column] = bytes(field) if len(field) <= _SHORT else field
        return ImageRecord(where, name, fields)


class BottomUpTsv(FeatureTsv):
    """`trainval2014_36` and its like, as published with bottom-up attention."""

    format = "bottom-up"
    columns = ("image_id", "image_w", "image_h", "num_boxes", "boxes", "features")


class LxmertTsv(FeatureTsv):
    """`obj36` files, as published with LXMERT."""

    format = "lxmert"
    columns = (
        *("img_id", "img_h", "img_w", "objects_id", "objects_conf", "attrs_id", "attrs_conf"),
        *("num_boxes", "boxes", "features"),
    )
