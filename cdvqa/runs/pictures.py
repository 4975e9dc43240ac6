"""Pictures for TensorBoard. They are drawn at every validation, so none takes more than some hundredths of a second."""

import re
from collections.abc import Mapping
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

CELL = 30  # pixels of a matrix in a heat map
COLOURS = np.array([(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)])  # from 0 to 1
INK, PAPER, ABSENT = (32, 33, 36), (255, 255, 255), (240, 240, 240)


def heat_map(values: Mapping[str, float], most: float) -> Image.Image:
    """Numbers of matrices in percent: a row for each layer, a column for each kind of matrix in it.

    Args:
        values: by parameter name, such as encoder.layer.3.output.dense.weight.
        most: the value that has the brightest colour; 0 has the darkest.
    """
    places = {name: place(name) for name in values}
    layers = list(dict.fromkeys(layer for layer, _ in places.values()))
    kinds = list(dict.fromkeys(kind for _, kind in places.values()))
    left, top = 12 + max(map(width, layers)), 12 + max(map(width, kinds))
    picture = Image.new("RGB", (left + CELL * len(kinds) + 4, top + CELL * len(layers) + 24), PAPER)
    draw = ImageDraw.Draw(picture)
    for column, kind in enumerate(kinds):
        label = Image.new("RGB", (top - 6, 14), PAPER)
        ImageDraw.Draw(label).text((0, 0), kind, INK, letters())
        picture.paste(label.rotate(90, expand=True), (left + CELL * column + 8, 0))
    for row, layer in enumerate(layers):
        draw.text((4, top + CELL * row + 8), layer, INK, letters())
        draw.rectangle((left, top + CELL * row, left + CELL * len(kinds) - 2, top + CELL * (row + 1) - 2), ABSENT)
    for name, value in values.items():
        layer, kind = places[name]
        x, y = left + CELL * kinds.index(kind), top + CELL * layers.index(layer)
        colour = shade(value / most if most else 0.0)
        draw.rectangle((x, y, x + CELL - 2, y + CELL - 2), colour)
        written = INK if sum(colour) > 380 else PAPER
        draw.text((x + CELL / 2 - 1, y + CELL / 2 - 1), number(100 * value), written, letters(), anchor="mm")
    scale = f"percent; dark 0, bright {number(100 * most)}; grey: no such matrix"
    draw.text((4, top + CELL * len(layers) + 6), scale, INK, letters())
    return picture


def place(name: str) -> tuple[str, str]:
    """The layer of a matrix, whose name ends with its number if it has one, and the matrix within the layer."""
    name = name.removesuffix(".weight")
    numbered = re.match(r"(.*\.\d+)\.(.+)", name)
    layer, kind = numbered.groups() if numbered else name.rpartition(".")[::2]
    return layer, kind


def shade(value: float) -> tuple[int, int, int]:
    """The colour of a number from 0 to 1."""
    stops = np.linspace(0, 1, len(COLOURS))
    red, green, blue = (round(float(np.interp(value, stops, channel))) for channel in COLOURS.T)
    return red, green, blue


def number(value: float) -> str:
    """At most three digits."""
    return f"{value:.0f}" if value >= 9.95 or value == 0 else f"{value:.1f}"


@cache
def letters(size: int = 11) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font."""
    return ImageFont.load_default(size)


def width(text: str) -> int:
    """Of a line of text, in pixels."""
    return int(letters().getlength(text)) + 1
