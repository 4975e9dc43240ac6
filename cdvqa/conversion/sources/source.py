"""The interface of an input of region features."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

FeatureFormat = Literal["auto", "bottom-up", "lxmert", "arrays", "lmdb", "hdf5"]
Progress = Callable[[str, int, int], None]
"""Called with the name of the step, how many bytes of the input are done, and of how many."""


@dataclass(frozen=True, eq=False)
class FeatureIndex:
    """The N images of an input, in the order they are stored in, before any features are decoded."""

    image_id: NDArray[np.int64]
    """(N,)."""
    size: NDArray[np.int64]
    """(N, 2) = width, height in pixels; 0 where they are unknown."""
    num_boxes: NDArray[np.int64]
    """(N,) regions of each image."""
    region_width: int
    """F."""
    place: NDArray[np.int64]
    """(N,) or (N, k): location of each image in the input: a byte offset, a row, or a position in a listing; the
    source's own."""

    def __getitem__(self, rows: slice) -> "FeatureIndex":
        """The index of some of the images."""
        size, num_boxes = self.size[rows], self.num_boxes[rows]
        return FeatureIndex(self.image_id[rows], size, num_boxes, self.region_width, self.place[rows])

    def __len__(self) -> int:
        return len(self.image_id)


class ImageRegions(NamedTuple):
    """The regions of one image."""

    where: str
    """File, record and image, as an error names them."""
    features: NDArray[np.floating]
    """(num_boxes, F)."""
    boxes: NDArray[np.float32]
    """(num_boxes, 4) = x1/w, y1/h, x2/w, y2/h."""


class FeatureSource(ABC):
    """An input of region features. Its constructor opens it and refuses what is wrong at first sight.

    A source is pickled into each process that converts a part of it, so it holds no open file.

    Attributes:
        format: what `--format` calls it.
        path: the input.
        bytes: its size, for the progress bar.
        images_per_block: how many images are written, flushed to disk and marked as done together.
        digest: of the whole file, after the name of its method, once `index` has read it through; None for an input
            that is not read through.
    """

    format: ClassVar[str]
    path: Path
    bytes: int
    images_per_block: ClassVar[int] = 256
    digest: str | None = None

    @abstractmethod
    def __init__(self, path: str | Path) -> None: ...

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether `path` looks like this format at first sight."""
        return False

    @property
    def identity(self) -> dict[str, Any]:
        """What distinguishes this input from others and from a changed state of itself (JSON-able): sizes, times."""
        status = self.path.stat()
        return {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns}

    @property
    def extractor(self) -> str | None:
        """What computed the features; None where it is unknown."""
        return None

    @abstractmethod
    def index(self, progress: Progress) -> FeatureIndex:
        """Go through the input once, without decoding features, in constant memory.

        Raises:
            InputError: something in it is wrong, or an image is duplicate; file, record and image are named.
        """

    @abstractmethod
    def images(self, index: FeatureIndex) -> Iterator[ImageRegions]:
        """Decode the images of `index` (a slice of what the method `index` gave), in its order.

        Raises:
            InputError: an image's arrays are not what the index says; file, record and image are named.
        """
