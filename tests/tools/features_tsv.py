"""TSV files of region features as the two published formats write them, and what is to come of them."""

import base64
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from cdvqa.cli import main
from cdvqa.conversion.feature_file import FeatureFile


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


def convert(source, target, *options):
    return main(["prepare", "features", "--input", str(source), "--output", str(target), *options])


def expected(images, dtype="float16"):
    """The data sets, computed directly from the arrays."""
    regions = max(len(image.boxes) for image in images)
    features = np.zeros((len(images), regions, images[0].features.shape[1]), dtype)
    boxes = np.zeros((len(images), regions, 4), np.float32)
    for i, image in enumerate(images):
        features[i, : len(image.boxes)] = image.features
        boxes[i, : len(image.boxes), 0::2] = image.boxes[:, 0::2] / np.float32(image.width)
        boxes[i, : len(image.boxes), 1::2] = image.boxes[:, 1::2] / np.float32(image.height)
    ids = np.array([int(image.id.rsplit("_")[-1]) for image in images])
    sizes = np.array([(image.width, image.height) for image in images])
    return {"features": features, "boxes": boxes, "image_id": ids, "size": sizes}


def contents(path):
    """The bytes of every data set."""
    with h5py.File(path) as file:
        names = [*(name for name in file if name != "conversion"), "conversion/blocks", "conversion/place"]
        return {name: file[name][:].tobytes() for name in names}


def assert_holds(path, images, dtype="float16"):
    with h5py.File(path) as file:
        wanted = expected(images, dtype)
        if len({len(image.boxes) for image in images}) > 1:
            wanted["num_boxes"] = np.array([len(image.boxes) for image in images])
        assert set(file) == {*wanted, "conversion"}
        for name, values in wanted.items():
            np.testing.assert_array_equal(file[name][:], values, err_msg=name)
            assert file[name].chunks is None and file[name].compression is None
        assert file["features"].dtype == dtype and file["boxes"].dtype == np.float32


def interrupt(monkeypatch, after):
    """Let the conversion be interrupted before it writes another block than the first `after`; returns those tried."""
    write, blocks = FeatureFile.write, []

    def failing(self, block, images):
        blocks.append(block)
        if len(blocks) > after:
            raise KeyboardInterrupt
        write(self, block, images)

    monkeypatch.setattr(FeatureFile, "write", failing)
    return blocks
