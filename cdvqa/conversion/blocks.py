"""Blocks of images in a feature file that is laid out: written, vouched for and read by offset, in any process.

Nothing here needs HDF5 or PyTorch, so that a process that converts blocks starts quickly and stays small.
"""

import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.reduction import DupFd
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdvqa.conversion.sources.source import FeatureIndex, FeatureSource, ImageRegions
from cdvqa.errors import InputError

RECORD = 3  # uint32 a block: CRC-32 of its features, of its boxes, and of these two and its number


class Interrupted(InputError):
    """The work ended for a reason outside the input; what is done is kept, and the same command goes on from there."""


@dataclass(frozen=True)
class BlockFile:
    """An open feature file and where its data sets begin.

    Pickled into a process that is being spawned, it takes its descriptor along, and with it the lock on the file: the
    lock is held until the last of the processes has ended.
    """

    name: str
    descriptor: int
    shape: tuple[int, int, int]
    dtype: str
    images_per_block: int
    features_at: int
    boxes_at: int
    records_at: int

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"descriptor": DupFd(self.descriptor)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, descriptor=state["descriptor"].detach())

    def __len__(self) -> int:
        return -(-self.shape[0] // self.images_per_block)

    def rows(self, block: int) -> slice:
        """The images of a block."""
        start = block * self.images_per_block
        return slice(start, min(start + self.images_per_block, self.shape[0]))

    def images(self, block: int) -> int:
        """How many images a block has."""
        rows = self.rows(block)
        return rows.stop - rows.start

    def done(self) -> NDArray[np.bool_]:
        """Which blocks are written and have reached the disk."""
        return np.array([self._record(block) is not None for block in range(len(self))])

    def write(self, block: int, images: Iterable[ImageRegions]) -> None:
        """Write a block, and its record once it has reached the disk."""
        rows, (_, regions, width) = self.rows(block), self.shape
        features = np.zeros((regions, width), self.dtype)
        boxes = np.zeros((self.images(block), regions, 4), np.float32)
        features_crc = 0
        for row, image in enumerate(images, rows.start):
            store(image, features, boxes[row - rows.start])
            features_crc = zlib.crc32(features.data, features_crc)
            self._put(features.data, self.features_at + row * features.nbytes)
        self._put(boxes.data, self.boxes_at + rows.start * boxes[0].nbytes)
        self._sync()
        content = struct.pack("<2I", features_crc, zlib.crc32(boxes.data))
        self._put(content + struct.pack("<I", _check(block, content)), self._record_at(block))

    def verify(self, block: int) -> bool:
        """Read a block and compare it with its record."""
        rows, (_, regions, width) = self.rows(block), self.shape
        features = np.empty((regions, width), self.dtype)
        boxes = np.empty((self.images(block), regions, 4), np.float32)
        crc = 0
        for row in range(rows.start, rows.stop):
            if not self._get(features.data, self.features_at + row * features.nbytes):
                return False
            crc = zlib.crc32(features.data, crc)
        whole = self._get(boxes.data, self.boxes_at + rows.start * boxes[0].nbytes)
        return whole and self._record(block) == (crc, zlib.crc32(boxes.data))

    def forget(self, block: int) -> None:
        """Take back a block's record."""
        self._put(bytes(4 * RECORD), self._record_at(block))

    def _record(self, block: int) -> tuple[int, int] | None:
        """The two CRC-32 of a block, or None where none, or a torn one, is recorded."""
        record = bytearray(4 * RECORD)
        self._get(record, self._record_at(block))
        features_crc, boxes_crc, check = struct.unpack("<3I", record)
        return (features_crc, boxes_crc) if check == _check(block, record[:8]) else None

    def _record_at(self, block: int) -> int:
        return self.records_at + 4 * RECORD * block

    def _put(self, content: Any, offset: int) -> None:
        put(self.descriptor, content, offset, self.name)

    def _get(self, content: Any, offset: int) -> bool:
        try:
            return os.preadv(self.descriptor, [content], offset) == memoryview(content).nbytes
        except OSError as error:
            raise Interrupted(f"{self.name}: cannot be read ({error.strerror})") from None

    def _sync(self) -> None:
        try:
            getattr(os, "fdatasync", os.fsync)(self.descriptor)
        except OSError as error:
            raise _unwritable(self.name, error) from None


def convert_block(file: BlockFile, source: FeatureSource, task: tuple[int, FeatureIndex]) -> int:
    """Write one block from its part of the index; returns its number."""
    block, index = task
    with reading(source):
        file.write(block, source.images(index))
    return block


@contextmanager
def reading(source: FeatureSource) -> Iterator[None]:
    """Tell in one line that the input cannot be read: a disk or a network that fails is no fault of the input."""
    try:
        yield
    except OSError as error:
        why = error.strerror or error
        raise Interrupted(f"{source.path}: cannot be read ({why}); run the same command again when it can") from None


def verify_block(file: BlockFile, block: int) -> tuple[int, bool]:
    """A block's number, and whether it holds what was written."""
    return block, file.verify(block)


def store(image: ImageRegions, features: NDArray[Any], boxes: NDArray[np.float32]) -> None:
    """Put an image's regions into rows of the stored type, zero where there are fewer regions than rows.

    Raises:
        InputError: a value is not finite, or the stored type cannot hold it.
    """
    for name, values, place in (("features", image.features, features), ("boxes", image.boxes, boxes)):
        limit = float(np.finfo(place.dtype).max)
        if not max(values.max(), -values.min()) <= limit:  # false for NaN too
            remedy = "; use --dtype float32" if np.isfinite(values).all() else ""
            what = f"{name} has NaN, infinite or too large values for {place.dtype}{remedy}"
            raise InputError(f"{image.where}: {what}")
        if (values.dtype, place.dtype) == (np.float32, np.float16):
            import torch  # its cast takes a fifteenth of numpy's time; without fp16 it is not needed

            writable = values if values.flags.writeable else values.copy()  # or torch warns
            torch.from_numpy(place[: len(values)]).copy_(torch.from_numpy(writable))
        else:
            place[: len(values)] = values
        place[len(values) :] = 0


def put(descriptor: int, content: Any, offset: int, name: str) -> None:
    """Write all of `content` at an offset.

    Raises:
        Interrupted: the disk is full or fails.
    """
    rest = memoryview(content).cast("B")
    try:
        while rest:
            written = os.pwrite(descriptor, rest, offset)
            rest, offset = rest[written:], offset + written
    except OSError as error:
        raise _unwritable(name, error) from None


def _unwritable(name: str, error: OSError) -> Interrupted:
    remedy = "what is written is kept: put it right and run the same command again"
    return Interrupted(f"{name}: cannot be written ({error.strerror}); {remedy}")


def _check(block: int, content: bytes | bytearray) -> int:
    return zlib.crc32(content + struct.pack("<I", block + 1))
