"""Pictures for TensorBoard. They are drawn at every validation, so none takes more than some hundredths of a second."""

import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cdvqa.data.visual.image_files import upright

PANEL, SHOWN, LINE = 260, 180, 15  # pixels: width of a sample, height of its image, height of a line
CELL = 30  # pixels of a matrix in a heat map
COLOURS = np.array([(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)])  # from 0 to 1
INK, PAPER, ABSENT = (32, 33, 36), (255, 255, 255), (240, 240, 240)
BOX, RIGHT, WRONG = (255, 140, 0), (0, 120, 60), (190, 30, 45)


@dataclass(frozen=True)
class Sample:
    """A question with what was answered.

    Attributes:
        question: the words that the model saw.
        image_id: of its image.
        boxes: of its regions, x1/w, y1/h, x2/w, y2/h each.
        answers: the most frequent human answers and how many gave them.
        prior: the likeliest answers of the question's type in training, with their prior.
        prediction: the model's answer.
        score: its VQA accuracy, from 0 to 1.
    """

    question: str
    image_id: int
    boxes: Sequence[Sequence[float]]
    answers: Sequence[tuple[str, int]]
    prior: Sequence[tuple[str, float]]
    prediction: str
    score: float


def heat_map(values: Mapping[str, float], most: float) -> Image.Image:
    """Numbers of matrices in percent: a row for each layer, a column for each kind of matrix in it.

    Args:
        values: by parameter name, such as encoder.layer.3.output.dense.weight.
        most: the value that has the brightest colour; 0 has the darkest.
    """
    cells = {name: layer_and_kind(name) for name in values}
    layers = list(dict.fromkeys(layer for layer, _ in cells.values()))
    kinds = list(dict.fromkeys(kind for _, kind in cells.values()))
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
        layer, kind = cells[name]
        x, y = left + CELL * kinds.index(kind), top + CELL * layers.index(layer)
        colour = shade(value / most if most else 0.0)
        draw.rectangle((x, y, x + CELL - 2, y + CELL - 2), colour)
        written = INK if sum(colour) > 380 else PAPER
        draw.text((x + CELL / 2 - 1, y + CELL / 2 - 1), three_digits(100 * value), written, letters(), anchor="mm")
    scale = f"percent; dark 0, bright {three_digits(100 * most)}; grey: no such matrix"
    draw.text((4, top + CELL * len(layers) + 6), scale, INK, letters())
    return picture


def sheet(samples: Sequence[Sample], paths: Mapping[int, Path], columns: int = 4) -> Image.Image:
    """Samples side by side, in rows; one whose image is not among `paths` (by image id) shows its boxes alone."""
    lines = [text_of(sample) for sample in samples]
    tall = SHOWN + LINE * (1 + max(map(len, lines)))
    rows = -(-len(samples) // columns)
    picture = Image.new("RGB", (PANEL * min(columns, len(samples)), tall * rows), PAPER)
    draw = ImageDraw.Draw(picture)
    for number, (sample, text) in enumerate(zip(samples, lines, strict=True)):
        x, y = PANEL * (number % columns), tall * (number // columns)
        picture.paste(image_of(sample, paths.get(sample.image_id)), (x + 4, y + 4))
        for row, (line, colour) in enumerate(text):
            draw.text((x + 4, y + SHOWN + 2 + LINE * row), line, colour, letters())
    return picture


def image_of(sample: Sample, path: Path | None) -> Image.Image:
    """The image of a sample with its boxes; an empty square where there is no image."""
    whole = Image.new("RGB", (SHOWN, SHOWN), ABSENT) if path is None else upright(path)
    factor = min((PANEL - 8) / whole.width, (SHOWN - 8) / whole.height)
    across, down = round(whole.width * factor), round(whole.height * factor)
    shown = whole.resize((max(across, 1), max(down, 1)))
    draw = ImageDraw.Draw(shown)
    for x1, y1, x2, y2 in sample.boxes:
        corners = (x1 * across, y1 * down, max(x2 * across - 1, x1 * across), max(y2 * down - 1, y1 * down))
        draw.rectangle(corners, outline=BOX)
    return shown


def text_of(sample: Sample) -> list[tuple[str, tuple[int, int, int]]]:
    """The lines below a sample, and their colours."""
    answers = ", ".join(f"{answer} ({people})" for answer, people in sample.answers)
    prior = ", ".join(f"{answer} {share:.2f}" for answer, share in sample.prior)
    said = f"predicted: {sample.prediction} ({100 * sample.score:.0f} %)"
    parts = [(sample.question, INK), (f"people: {answers}", INK), (f"prior: {prior or 'none'}", INK)]
    parts.append((said, RIGHT if sample.score else WRONG))
    return [(line, colour) for text, colour in parts for line in textwrap.wrap(text, PANEL // 7)]


def layer_and_kind(name: str) -> tuple[str, str]:
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


def three_digits(value: float) -> str:
    """At most three digits."""
    return f"{value:.0f}" if value >= 9.95 or value == 0 else f"{value:.1f}"


@cache
def letters(size: int = 12) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font."""
    return ImageFont.load_default(size)


def width(text: str) -> int:
    """Of a line of text, in pixels."""
    return int(letters().getlength(text)) + 1
