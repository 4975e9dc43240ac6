"""The images of a data set as a backbone takes them: region features or pixels."""

from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class ImageFormat(NamedTuple):
    """The format of the images that a backbone takes: square, RGB, scaled to 0..1 and normalised by channel.

    Attributes:
        side: height and width in pixels.
        mean, std: of red, green and blue, in 0..1.
    """

    side: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class VisualSource(Protocol):
    """Region features or pixels, by image id.

    Attributes:
        path: its file or folder.
        image_id: (N,) the images it has.
        image_shape: of one image in a batch's largest tensor.
        dtype: of the numbers in it.
        option: the option that names its file or folder.
        gives: what it has of an image, as a message names it.
    """

    path: Path
    image_id: NDArray[np.int64]
    option: str
    gives: str

    @property
    def image_shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def check_images(self, image_ids: NDArray[np.int64], question_ids: NDArray[np.int64]) -> None:
        """Raise InputError, naming image and question, if one of these images is missing."""

    def fields(
        self,
        image_ids: NDArray[np.int64],
        question_ids: NDArray[np.int64],
        epoch: int,
        out: NDArray[Any] | None,
    ) -> dict[str, NDArray[Any]]:
        """The fields of a `VQABatch` that describe B images, as arrays.

        Args:
            image_ids: (B,).
            question_ids: (B,) the questions asked about them.
            epoch: the epoch they are for; it matters where something is drawn at random.
            out: (B, *image_shape) of type `dtype`, filled and returned as the largest of the fields.

        Raises:
            InputError: an image is missing or cannot be read.
        """

    def fingerprint(self) -> dict[str, Any]:
        """What distinguishes this source from others (JSON-able); `extractor` says how it was made."""
