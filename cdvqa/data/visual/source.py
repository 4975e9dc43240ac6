"""What a data set shows a backbone of the images its questions are about."""

from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class ImageFormat(NamedTuple):
    """What pictures a backbone takes: square, in RGB, scaled to 0..1 and normalised by channel.

    Attributes:
        side: height and width in pixels.
        mean, std: of red, green and blue.
    """

    side: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class VisualSource(Protocol):
    """Region features or pictures, by image id.

    Attributes:
        path: its file or folder.
        image_id: (N,) the images it has.
        image_shape: of one image in a batch's largest tensor.
        dtype: of the numbers in it.
        option: the option that names its file or folder.
        gives: what it has of an image, as messages call it.
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
        """Raise InputError, naming image and question, if one of these images is lacking."""

    def fields(
        self,
        image_ids: NDArray[np.int64],
        question_ids: NDArray[np.int64],
        epoch: int,
        out: NDArray[Any] | None,
    ) -> dict[str, NDArray[Any]]:
        """The fields of a `VQABatch` that show B images, as arrays.

        Args:
            image_ids: (B,).
            question_ids: (B,) the questions asked about them.
            epoch: the epoch they are for; it matters where something is drawn at random.
            out: (B, *image_shape) of type `dtype`, filled and handed out as the largest of the fields.

        Raises:
            InputError: an image is lacking or cannot be read.
        """

    def fingerprint(self) -> dict[str, Any]:
        """What tells this source from others (JSON-able); `extractor` names what it shows of an image."""
