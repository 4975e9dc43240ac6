"""Grid features of a folder of images."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cdvqa.conversion.sources.source import FeatureIndex, FeatureSource, ImageRegions, Progress
from cdvqa.data.visual.image_files import SUFFIXES, by_image_id, image_files, opened, upright, upright_size
from cdvqa.errors import InputError

# The architecture inside bottom-up attention, whose features LXMERT learnt from; resnet-152 takes half as long again.
DEFAULT_CHECKPOINT = "microsoft/resnet-101"

GRID = 6  # cells a side: 36, as many as bottom-up attention has regions
# The networks' stride is 32, so a cell is the average of 2 x 2 positions of the last stage. 192 pixels would give one
# position a cell, but shrink COCO's images of 640 x 480 to less than a third, and these networks learnt from larger
# objects.
PIXELS = 384


class GridImages(FeatureSource):
    """Own images: a ResNet's features of 6 x 6 cells are used as regions.

    The folder is read with the folders in it, without names that begin with a dot. An image is turned as its EXIF
    orientation says and squeezed to a square, not cropped, so that every cell is a part of the whole image.

    Args:
        path: the folder; files are named by image id, as 318556.jpg or COCO_train2014_000000318556.jpg.
        checkpoint: a ResNet on the Hugging Face hub, or a local folder in that format.

    Raises:
        InputError: no such folder, no image in it, or the checkpoint is not available or no ResNet.
    """

    format = "grid"
    images_per_block = 16  # takes a core a few seconds

    def __init__(self, path: str | Path, checkpoint: str = DEFAULT_CHECKPOINT) -> None:
        from cdvqa.conversion.sources.resnet import load_resnet

        self.path = Path(path)
        if not self.path.is_dir():
            raise InputError(f"{path}: no such folder; --images is a folder of {', '.join(SUFFIXES)} files")
        self._files = image_files(self.path)
        if not self._files:
            raise InputError(f"{path}: no image in it; --images is a folder of {', '.join(SUFFIXES)} files")
        self.bytes = sum(file.bytes for file in self._files)
        self._checkpoint = checkpoint
        network = load_resnet(checkpoint)
        self._region_width, side, _ = network.last_stage(np.zeros((PIXELS, PIXELS, 3), np.uint8)).shape
        if side % GRID:
            raise InputError(f"{checkpoint}: its last stage has {side} places a side, no multiple of {GRID}")
        self._extractor = f"grid {GRID} x {GRID}, {network.name}, {PIXELS} x {PIXELS} pixels"

    @property
    def identity(self) -> dict[str, Any]:
        files = image_files(self.path)
        listing = hashlib.sha256(repr([tuple(file) for file in files]).encode()).hexdigest()
        total = sum(file.bytes for file in files)
        return {"files": len(files), "bytes": total, "listing": listing, "extractor": self._extractor}

    @property
    def extractor(self) -> str:
        return self._extractor

    def index(self, progress: Progress) -> FeatureIndex:
        """Read the images' headers: ids, and sizes after turning."""
        by_id = by_image_id(self.path, self._files)
        size = np.empty((len(by_id), 2), np.int64)
        done = 0
        for place, file in enumerate(by_id.values()):
            with opened(self.path / file.name) as image:
                size[place] = upright_size(image)
            done += file.bytes
            progress("checking", done, self.bytes)
        image_id = np.array(list(by_id), np.int64)
        cells = np.full_like(image_id, GRID * GRID)
        return FeatureIndex(image_id, size, cells, self._region_width, np.arange(len(image_id), dtype=np.int64))

    def images(self, index: FeatureIndex) -> Iterator[ImageRegions]:
        from cdvqa.conversion.sources.resnet import load_resnet

        network, boxes = load_resnet(self._checkpoint), _cell_boxes()
        for place in index.place.tolist():
            path = self.path / self._files[place].name
            yield ImageRegions(str(path), _cells(network.last_stage(_square(path))), boxes)


def _cells(stage: NDArray[np.float32]) -> NDArray[np.float32]:
    """The average in each cell (36, F), row by row, of features (F, h, w)."""
    width, height, _ = stage.shape
    each = height // GRID
    cells: NDArray[np.float32] = stage.reshape(width, GRID, each, GRID, each).mean((2, 4)).reshape(width, -1).T
    return cells


def _cell_boxes() -> NDArray[np.float32]:
    """The cells (36, 4) as shares of width and height, row by row."""
    row, column = np.divmod(np.arange(GRID * GRID), GRID)
    return (np.stack([column, row, column + 1, row + 1], axis=1) / GRID).astype(np.float32)


def _square(path: Path) -> NDArray[np.uint8]:
    return np.array(upright(path).resize((PIXELS, PIXELS), Image.Resampling.BICUBIC))
