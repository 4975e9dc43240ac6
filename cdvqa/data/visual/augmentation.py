"""Random changes to the images of training."""

import math
from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

Augmentation = Literal["none", "mplug"]
Change = Callable[[Image.Image, float], Image.Image]
Augment = Callable[[Image.Image, int, np.random.Generator], Image.Image]
"""From an image, the side S in pixels, and a random generator to a changed image (S, S)."""

_AREA, _RATIO = 0.5, 4 / 3  # a part has at least this share of the area, and an aspect ratio from 3 / 4 to 4 / 3
_OPERATIONS, _LEVEL, _CHANCE = 2, 0.7, 0.5  # RandAugment(2, 7) of 10, each operation applied half of the time
_GREY = (128, 128, 128)


def mplug(picture: Image.Image, side: int, rng: np.random.Generator) -> Image.Image:
    """The augmentation of mPLUG's authors: a random part, mirrored half of the time, then RandAugment.

    Mirroring makes answers about left and right wrong; the authors use it nevertheless.
    """
    part = picture.crop(_random_box(picture.size, rng)).resize((side, side), Image.Resampling.BICUBIC)
    if rng.random() < 0.5:
        part = ImageOps.mirror(part)
    for number in rng.integers(len(_CHANGES), size=_OPERATIONS):
        applied, sign = rng.random() < _CHANCE, rng.choice((-1, 1))
        if applied:
            part = _CHANGES[number](part, sign)
    return part


def _random_box(size: tuple[int, int], rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of a random part; after ten that do not fit, the largest in the middle."""
    width, height = size
    for _ in range(10):
        area = width * height * rng.uniform(_AREA, 1)
        ratio = _RATIO ** rng.uniform(-1, 1)
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    w = min(width, max(round(height * _RATIO), 1))
    h = min(height, max(round(width * _RATIO), 1))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def _enhanced(enhancer: Callable[[Image.Image], ImageEnhance._Enhance]) -> Change:
    return lambda picture, sign: enhancer(picture).enhance(0.1 + 1.8 * _LEVEL)


def _moved(matrix: Callable[[float], tuple[float, ...]]) -> Change:
    """An affine change; `matrix` gives, for a sign, Pillow's (a, b, c, d, e, f): which pixel each pixel comes from."""

    def change(picture: Image.Image, sign: float) -> Image.Image:
        affine, bilinear = Image.Transform.AFFINE, Image.Resampling.BILINEAR
        return picture.transform(picture.size, affine, matrix(sign), bilinear, fillcolor=_GREY)

    return change


# The operations of ALBEF's RandAugment, which mPLUG uses. The amounts are for this one level; shifts are in pixels,
# whatever the side.
_CHANGES: tuple[Change, ...] = (
    lambda picture, sign: picture,
    lambda picture, sign: ImageOps.autocontrast(picture),
    lambda picture, sign: ImageOps.equalize(picture),
    _enhanced(ImageEnhance.Brightness),
    _enhanced(ImageEnhance.Sharpness),
    _moved(lambda sign: (1, sign * 0.3 * _LEVEL, 0, 0, 1, 0)),
    _moved(lambda sign: (1, 0, 0, sign * 0.3 * _LEVEL, 1, 0)),
    _moved(lambda sign: (1, 0, sign * 10 * _LEVEL, 0, 1, 0)),
    _moved(lambda sign: (1, 0, 0, 0, 1, sign * 10 * _LEVEL)),
    lambda picture, sign: picture.rotate(sign * 30 * _LEVEL, Image.Resampling.BILINEAR, fillcolor=_GREY),
)

AUGMENTATIONS: Mapping[Augmentation, Augment] = {"mplug": mplug}
