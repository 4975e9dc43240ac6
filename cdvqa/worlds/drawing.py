"""Scenes of simple objects: sampled, drawn, and cut into region features."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

WIDTH, HEIGHT = 128, 96
REGIONS = 10
FEATURE_SIZE = 128
CROP = 12

COLOURS = {
    "red": (230, 25, 25),
    "green": (25, 180, 40),
    "blue": (25, 50, 230),
    "yellow": (240, 225, 20),
    "purple": (200, 30, 210),
    "cyan": (30, 215, 225),
    "brown": (150, 85, 20),
    "black": (20, 20, 20),
}
SHAPES = ("cube", "ball", "cone", "star", "ring", "cross")
SIZES = {"small": 7, "large": 14}
BACKGROUND = (245, 245, 240)


class Thing(NamedTuple):
    """One object: its names, and its centre and half-width in pixels."""

    colour: str
    shape: str
    size: str
    x: int
    y: int

    @property
    def radius(self) -> int:
        return SIZES[self.size]

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right, bottom in pixels; always inside the image."""
        return self.x - self.radius, self.y - self.radius, self.x + self.radius, self.y + self.radius


def sample_scene(rng: np.random.Generator) -> list[Thing]:
    """Draw 4 to 10 objects; each scene favours a few colours and shapes, so that things can be counted.

    Objects may overlap by about a quarter of their width; later ones hide earlier ones.
    """
    colours = rng.choice(list(COLOURS), size=5, replace=False)
    shapes = rng.choice(SHAPES, size=4, replace=False)
    things: list[Thing] = []
    for _ in range(rng.integers(4, REGIONS + 1)):
        names = str(rng.choice(colours)), str(rng.choice(shapes)), str(rng.choice(list(SIZES)))
        radius = SIZES[names[2]]
        for _ in range(200):
            x = int(rng.integers(radius, WIDTH - radius))
            y = int(rng.integers(radius, HEIGHT - radius))
            if all(max(abs(x - t.x), abs(y - t.y)) > 0.75 * (radius + t.radius) for t in things):
                things.append(Thing(*names, x, y))
                break
    return things


def draw_scene(things: list[Thing]) -> Image.Image:
    """Draw the scene, 128 x 96 pixels RGB."""
    image = Image.new("RGB", (WIDTH, HEIGHT), BACKGROUND)
    pen = ImageDraw.Draw(image)
    for thing in things:
        _draw_thing(pen, thing)
    return image


def _draw_thing(pen: ImageDraw.ImageDraw, thing: Thing) -> None:
    fill = COLOURS[thing.colour]
    left, top, right, bottom = thing.box
    r, x, y = thing.radius, thing.x, thing.y
    if thing.shape == "cube":
        pen.rectangle((left, top, right, bottom), fill=fill)
    elif thing.shape == "ball":
        pen.ellipse((left, top, right, bottom), fill=fill)
    elif thing.shape == "ring":
        pen.ellipse((left, top, right, bottom), outline=fill, width=max(3, r // 3))
    elif thing.shape == "cone":
        pen.polygon([(x, top), (left, bottom), (right, bottom)], fill=fill)
    elif thing.shape == "cross":
        arm = r // 3
        pen.rectangle((x - arm, top, x + arm, bottom), fill=fill)
        pen.rectangle((left, y - arm, right, y + arm), fill=fill)
    else:
        angles = np.arange(10) * np.pi / 5
        radii = np.where(np.arange(10) % 2 == 0, r, 0.42 * r)
        pen.polygon(list(zip(x + radii * np.sin(angles), y - radii * np.cos(angles), strict=True)), fill=fill)


@dataclass(frozen=True)
class Regions:
    """Regions of one image: `features` (10, 128) fp32, `boxes` (10, 4) in [0, 1], and the things in slot order."""

    features: NDArray[np.float32]
    boxes: NDArray[np.float32]
    things: list[Thing]


def cut_regions(image: Image.Image, things: list[Thing], noise: float, rng: np.random.Generator) -> Regions:
    """Turn each object's crop into a feature: a fixed projection of its pixels plus Gaussian noise.

    The projection is scaled so that a crop's feature has about unit variance; `noise` is the standard deviation added
    to each of the 128 numbers, so it is also the ratio of noise to signal. Slots are in random order; unused
    ones are zero.
    """
    things = [things[index] for index in rng.permutation(len(things))]
    features = np.zeros((REGIONS, FEATURE_SIZE), np.float32)
    boxes = np.zeros((REGIONS, 4), np.float32)
    pixels = np.empty((len(things), CROP, CROP, 3), np.float32)
    for slot, thing in enumerate(things):
        pixels[slot] = np.asarray(image.resize((CROP, CROP), Image.Resampling.BOX, box=thing.box))
        boxes[slot] = np.array(thing.box) / (WIDTH, HEIGHT, WIDTH, HEIGHT)
    signal = project_crops(pixels)
    features[: len(things)] = signal + noise * rng.standard_normal(signal.shape, np.float32)
    return Regions(features, boxes, things)


def project_crops(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Project RGB crops (n, 12, 12, 3) in 0..255 to features (n, 128).

    Each pixel is first written as its weights on the eight corners of the RGB cube (black, blue, ..., white), so that
    named colours and the outline against the white background can both be read off by a linear layer.
    """
    value = pixels[..., None, :] / 255
    weights = (CORNERS * value + (1 - CORNERS) * (1 - value)).prod(-1) - USUAL_WEIGHT
    features: NDArray[np.float32] = weights.reshape(len(pixels), -1) @ PROJECTION
    return features


CORNERS = np.array([[c >> 2 & 1, c >> 1 & 1, c & 1] for c in range(8)], np.float32)
USUAL_WEIGHT = np.array([0.085] * 7 + [0.4], np.float32)  # about the mean over crops, so features are centred
PROJECTION = np.random.default_rng(1).standard_normal((CROP * CROP * 8, FEATURE_SIZE)).astype(np.float32) / 7
