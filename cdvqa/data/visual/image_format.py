"""What pictures a backbone takes."""

from typing import NamedTuple


class ImageFormat(NamedTuple):
    """Square RGB pictures, scaled to 0..1 and normalised by channel.

    Attributes:
        side: height and width in pixels.
        mean, std: of red, green and blue.
    """

    side: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
