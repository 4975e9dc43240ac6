"""TSV files of region features as the two published formats write them, with csv and base64."""

import base64
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Image(NamedTuple):
    id: str
    width: int
    height: int
    boxes: np.ndarray
    features: np.ndarray


def sample_images(count=7, regions=3, width=5, seed=0):
    """Random images with boxes inside them; `regions` may be a list with one number for each image."""
    rng = np.random.default_rng(seed)
    counts = regions if isinstance(regions, list) else [regions] * count
    images = []
    for i, n in enumerate(counts):
        w, h = int(rng.integers(100, 640)), int(rng.integers(100, 640))
        boxes = rng.random((n, 4), np.float32) * np.array([w, h, w, h], np.float32)
        images.append(Image(str((1000 - 7 * i) % 10007), w, h, boxes, rng.normal(size=(n, width)).astype(np.float32)))
    return images


def encode(array) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def bottom_up(image: Image) -> str:
    arrays = [encode(image.boxes), encode(image.features)]
    return "\t".join([image.id, str(image.width), str(image.height), str(len(image.boxes)), *arrays])


def lxmert(image: Image) -> str:
    n = len(image.boxes)
    ids, confidences = encode(np.arange(n, dtype=np.int64)), encode(np.ones(n, np.float32))
    objects = [ids, confidences, ids, confidences]
    sizes = [str(image.height), str(image.width)]
    return "\t".join([image.id, *sizes, *objects, str(n), encode(image.boxes), encode(image.features)])


def write_tsv(path: Path, images: list[Image], line=bottom_up) -> Path:
    path.write_text("".join(f"{line(image)}\n" for image in images))
    return path
