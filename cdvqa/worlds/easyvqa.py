"""`easyvqa`: the easy-VQA images and questions, split into train, in- and out-of-distribution tests as in VQA-CP v2."""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cdvqa.data.visual.features import write_features
from cdvqa.errors import InputError
from cdvqa.messages import progress_bar
from cdvqa.worlds.layout import ID_STEP, build_world, record, write_split, write_vocabulary

VERSION = 1
PREFIXES = (
    "is there a",
    "is there not a",
    "does the image contain",
    "does the image not contain",
    "is a",
    "is no",
    "what color is the",
    "what shape is",
    "what shape does",
    "what is the",
)
GRID, CELL, SIDE = 4, 16, 64
FEATURE_SIZE = 128
SKEW = 8.0  # how much more often train gives a type's first answer than its last
ID_SHARE = 0.2  # share of the package's training images whose questions become `id`


class Source(NamedTuple):
    """One question of the package, with the path of its image."""

    text: str
    answer: str
    image: Path


def make_easyvqa(output: Path = Path("data/easyvqa"), seed: int = 0) -> None:
    """Make `easyvqa`: the images and questions of the package easy-vqa, in the files of VQA-CP v2.

    The answers of each question type are resampled to a skewed prior in `train` and `id` and to its inverse in `test`;
    no image is in two splits. All ten annotators agree. A region is one of 4 x 4 cells of the image, its feature a
    fixed projection of the cell's 16 x 16 x 3 pixels.

    Args:
        output: folder to make.
        seed: seed of the split.

    Raises:
        InputError: easy-VQA is not installed, or `output` exists and is not this world, complete.
    """
    training, testing = read_package()
    identity = {"world": "easyvqa", "version": VERSION, "seed": seed}
    build_world(output, identity, lambda folder: _fill(folder, seed, training, testing))


def read_package() -> tuple[list[Source], list[Source]]:
    """The package's training and test questions (it also installs a package named `test`, which is never imported)."""
    try:
        import easy_vqa
    except ImportError:
        raise InputError('easy-VQA is not installed; run: pip install "cdvqa[easyvqa]"') from None

    def read(questions: Callable[[], Any], paths: Callable[[], Any]) -> list[Source]:
        images = paths()
        return [Source(text, answer, Path(images[image])) for text, answer, image in zip(*questions(), strict=True)]

    return (
        read(easy_vqa.get_train_questions, easy_vqa.get_train_image_paths),
        read(easy_vqa.get_test_questions, easy_vqa.get_test_image_paths),
    )


def question_type(text: str) -> str:
    """The longest prefix that the question starts with."""
    return max((prefix for prefix in PREFIXES if text.startswith(prefix)), key=len)


def resample(questions: list[Source], inverted: bool, rng: np.random.Generator) -> list[Source]:
    """Keep questions so that the answers of each type follow a geometric prior, `SKEW` times from first to last.

    A type's answers are in alphabetical order, the same in every split. `inverted` reverses the prior, which gives
    probabilities in proportion to the inverse ones.
    """
    groups: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for index, question in enumerate(questions):
        groups[question_type(question.text)][question.answer].append(index)
    kept: list[int] = []
    for group in groups.values():
        answers = sorted(group, reverse=inverted)
        wanted = SKEW ** -np.linspace(0, 1, len(answers))
        scale = min(len(group[answer]) / share for answer, share in zip(answers, wanted, strict=True))
        for answer, share in zip(answers, wanted, strict=True):
            kept += rng.choice(group[answer], size=int(scale * share), replace=False).tolist()
    return [questions[index] for index in sorted(kept)]


def grid_regions(image: Image.Image) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Features (16, 128) and boxes (16, 4) of the image's cells, row by row."""
    pixels = np.asarray(image.convert("RGB"), np.float32) / 255
    cells = pixels.reshape(GRID, CELL, GRID, CELL, 3).swapaxes(1, 2).reshape(GRID * GRID, -1)
    rows, columns = np.divmod(np.arange(GRID * GRID), GRID)
    boxes = np.stack([columns, rows, columns + 1, rows + 1], axis=1) / GRID
    return (cells - 0.5) @ PROJECTION, boxes


PROJECTION = np.random.default_rng(2).standard_normal((CELL * CELL * 3, FEATURE_SIZE)).astype(np.float32) / CELL


def _fill(folder: Path, seed: int, training: list[Source], testing: list[Source]) -> None:
    rng = np.random.default_rng(seed)
    images = sorted({question.image for question in training}, key=lambda path: int(path.stem))
    held_out = {images[index] for index in rng.permutation(len(images))[: int(ID_SHARE * len(images))]}
    splits = {
        "train": resample([question for question in training if question.image not in held_out], False, rng),
        "id": resample([question for question in training if question.image in held_out], False, rng),
        "test": resample(testing, True, rng),
    }
    ids = _write_images(folder, [question.image for questions in splits.values() for question in questions])
    for split, questions in splits.items():
        _write_questions(folder, split, questions, ids)
    write_vocabulary(folder / "vocab.txt", [question.text for question in splits["train"]])


def _write_images(folder: Path, paths: list[Path]) -> dict[Path, int]:
    """Copy the images and write their features; return image ids, numbered from 1 in order of appearance."""
    ids = {path: number for number, path in enumerate(dict.fromkeys(paths), 1)}
    (folder / "images").mkdir()
    features, boxes = [], []
    with progress_bar("images", len(ids)) as advance:
        for path, image_id in ids.items():
            (folder / "images" / f"{image_id}.png").write_bytes(path.read_bytes())
            with Image.open(path) as image:
                cells = grid_regions(image)
            features.append(cells[0])
            boxes.append(cells[1])
            advance(1)
    write_features(
        folder / "features.h5",
        features=np.stack(features).astype(np.float16),
        boxes=np.stack(boxes),
        image_id=np.array(list(ids.values())),
        size=np.full((len(ids), 2), SIDE),
        num_boxes=np.full(len(ids), GRID * GRID),
    )
    return ids


def _write_questions(folder: Path, split: str, questions: list[Source], ids: dict[Path, int]) -> None:
    asked: dict[int, int] = defaultdict(int)
    records = []
    for text, answer, image in questions:
        image_id = ids[image]
        question_id = image_id * ID_STEP + asked[image_id]
        asked[image_id] += 1
        answers = [{"answer": answer, "answer_confidence": "yes", "answer_id": number} for number in range(1, 11)]
        answer_type = "yes/no" if answer in ("yes", "no") else "other"
        records.append(record(question_id, image_id, text, "easyvqa", question_type(text), answer_type, answers))
    write_split(folder, split, records)
