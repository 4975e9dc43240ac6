"""Images from a folder, for backbones that read pixels."""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from cdvqa.data.visual.augmentation import Augment
from cdvqa.data.visual.image_files import SUFFIXES, by_image_id, image_files, upright
from cdvqa.data.visual.source import ImageFormat
from cdvqa.errors import InputError


class ImagePixels:
    """Single images in the format of a backbone, without a folder.

    Args:
        image_format: side of the square, mean and standard deviation of the channels.
    """

    def __init__(self, image_format: ImageFormat) -> None:
        self.side = image_format.side
        # (3, 256): what each value of a channel becomes
        mean, std = (np.array(values)[:, None] for values in (image_format.mean, image_format.std))
        self._values = ((np.arange(256) / 255 - mean) / std).astype(np.float32)

    def read(self, picture: str | Path | Image.Image) -> NDArray[np.float32]:
        """(3, S, S) of a file, or of a picture in memory.

        Raises:
            InputError: the file cannot be read as a picture.
        """
        whole = picture.convert("RGB") if isinstance(picture, Image.Image) else upright(Path(picture))
        return self.fill(self.square(whole), np.empty((3, self.side, self.side), np.float32))

    def square(self, picture: Image.Image) -> Image.Image:
        """The picture squeezed to a square."""
        return picture.resize((self.side, self.side), Image.Resampling.BICUBIC)

    def fill(self, square: Image.Image, out: NDArray[np.float32]) -> NDArray[np.float32]:
        """Write the normalised pixels of a square picture into `out` (3, S, S), and return it."""
        pixels = np.asarray(square)
        for channel, values in enumerate(self._values):
            np.take(values, pixels[..., channel], out=out[channel], mode="clip")  # "raise" makes a copy
        return out


class ImageFolder:
    """A folder of JPEG, PNG or WebP files, and the folders in it, named by image id.

    Names are such as 318556.jpg or COCO_train2014_000000318556.jpg. A picture is turned as its EXIF orientation says
    and squeezed to a square, not cropped. The reader can be used by several threads at once.

    Args:
        path: the folder.
        image_format: side of the square, mean and standard deviation of the channels.

    Raises:
        InputError: no such folder, no image in it, a name without an id, or two files with the same id.
    """

    option = "--data.images"
    gives = "a file"
    dtype = np.dtype(np.float32)

    def __init__(self, path: str | Path, image_format: ImageFormat) -> None:
        self.path = Path(path)
        wanted = f"point {self.option} at a folder of {', '.join(SUFFIXES)} files"
        if not self.path.is_dir():
            raise InputError(f"{path}: no such folder of images; {wanted}")
        self._files = by_image_id(self.path, image_files(self.path))
        if not self._files:
            raise InputError(f"{path}: no image in it; {wanted}")
        self.image_id: NDArray[np.int64] = np.array(list(self._files), np.int64)
        self.bytes = sum(file.bytes for file in self._files.values())
        self._pixels = ImagePixels(image_format)
        self._augment: Augment | None = None
        self._seed = 0

    def __len__(self) -> int:
        return len(self._files)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(3, S, S)."""
        return 3, self._pixels.side, self._pixels.side

    def augmented(self, augment: Augment, seed: int) -> ImageFolder:
        """The same folder with random changes to its pictures.

        Args:
            augment: from `cdvqa.data.visual.augmentation`.
            seed: what is drawn is a function of it, the epoch and the question, so that a resumed run repeats it and
                the number of processes and threads makes no difference.
        """
        changed = copy.copy(self)
        changed._augment, changed._seed = augment, seed
        return changed

    def read(
        self,
        image_ids: ArrayLike,
        question_ids: ArrayLike | None = None,
        epoch: int = 0,
        out: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """Pictures of B images, (B, 3, S, S), in any order and with repeats.

        Args:
            image_ids: (B,).
            question_ids: (B,) the questions asked about them; needed where pictures are augmented.
            epoch: the epoch they are for.
            out: (B, 3, S, S), filled and returned.

        Raises:
            InputError: an image is missing or cannot be read.
        """
        numbers = np.asarray(image_ids, np.int64)
        questions = numbers if question_ids is None else np.asarray(question_ids, np.int64)
        self.check_images(numbers, questions)
        pictures = np.empty((len(numbers), *self.image_shape), np.float32) if out is None else out
        seeds = questions.view(np.uint64).tolist()  # a seed cannot be negative
        for picture, image, seed in zip(pictures, numbers.tolist(), seeds, strict=True):
            square = self._square(upright(self.path / self._files[image].name), (self._seed, epoch, seed))
            self._pixels.fill(square, picture)
        return pictures

    def fields(
        self,
        image_ids: NDArray[np.int64],
        question_ids: NDArray[np.int64],
        epoch: int,
        out: NDArray[Any] | None,
    ) -> dict[str, NDArray[Any]]:
        """`image` of a batch; see `VisualSource.fields`."""
        return {"image": self.read(image_ids, question_ids, epoch, out)}

    def check_images(self, image_ids: NDArray[np.int64], question_ids: NDArray[np.int64]) -> None:
        """Raise InputError, naming image and question, if there is no file of an image."""
        for image, question in zip(image_ids.tolist(), question_ids.tolist(), strict=True):
            if image not in self._files:
                raise InputError(f"{self.path}: image {image} (question {question}) has no file in the folder")

    def fingerprint(self) -> dict[str, Any]:
        """`extractor` with the size of the pictures, `files` (their number), and `ids_sha256` of their ids."""
        ids = hashlib.sha256(np.sort(self.image_id).tobytes()).hexdigest()
        size = f"{self._pixels.side} x {self._pixels.side} pixels"
        return {"extractor": f"images, {size}", "files": len(self), "ids_sha256": ids}

    def _square(self, picture: Image.Image, draw: tuple[int, int, int]) -> Image.Image:
        if self._augment is not None:
            return self._augment(picture, self._pixels.side, np.random.default_rng(draw))
        return self._pixels.square(picture)
