"""A toy data set in VQA-CP v2's files: enough to drive every reader, small enough to write in each test."""

from pathlib import Path
from typing import Any

import numpy as np
import orjson
from PIL import Image

from cdvqa.data.answers.prior import QuestionTypePrior
from cdvqa.data.answers.targets import SoftTargets
from cdvqa.data.answers.vocabulary import AnswerVocabulary
from cdvqa.data.dataset import VQADataset
from cdvqa.data.datasets import VQACP
from cdvqa.data.questions.text import load_tokenizer, tokenise
from cdvqa.data.visual.features import RegionFeatures, write_features

TYPES = {
    "is the": ("yes/no", ["yes", "no"]),
    "how many": ("number", ["1", "2"]),
    "what color": ("other", ["red", "blue"]),
}
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "is", "the", "how", "many", "what", "color", "dog", "?"]
IMAGES, REGIONS, WIDTH = 12, 3, 8


def record(question_id: int, question_type: str, answers: list[str], answer_type: str = "other") -> dict[str, Any]:
    """One official annotation; the first answer is the multiple-choice answer."""
    return {
        "question_id": question_id,
        "image_id": question_id % IMAGES,
        "question_type": question_type,
        "answer_type": answer_type,
        "multiple_choice_answer": answers[0],
        "answers": [{"answer": a, "answer_confidence": "yes", "answer_id": i + 1} for i, a in enumerate(answers)],
    }


def split(count: int, first_id: int, seed: int = 0) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """`count` questions and annotations, in different orders; one in ten has no answer in the vocabulary."""
    rng = np.random.default_rng(seed)
    questions, annotations = [], []
    for question_id in range(first_id, first_id + count):
        question_type = list(TYPES)[rng.integers(len(TYPES))]
        answer_type, choices = TYPES[question_type]
        answers = [choices[rng.integers(2)] for _ in range(10)]
        if question_id % 10 == 3:
            answers = [f"unheard of {question_id}"] * 10
        annotations.append(record(question_id, question_type, answers, answer_type))
        text = f"{question_type} dog?"
        questions.append({"question_id": question_id, "image_id": question_id % IMAGES, "question": text})
    return questions[::-1], annotations


def write_toy(root: Path, train: int = 60, test: int = 23, id_test: int = 0) -> Path:
    """Write splits, features and word pieces under `root`; its vocabulary has 6 answers at min_count 1 … 5."""
    for name, count, first_id in (("train", train, 1000), ("test", test, 5000), ("id", id_test, 9000)):
        if count:
            questions, annotations = split(count, first_id)
            dump(root / f"vqacp_v2_{name}_questions.json", questions)
            dump(root / f"vqacp_v2_{name}_annotations.json", annotations)
    write_toy_features(root / "features.h5")
    (root / "vocab.txt").write_text("\n".join(PIECES) + "\n")
    return root


def write_toy_features(path: Path, **kwargs: Any) -> dict[str, np.ndarray]:
    """Write features of `IMAGES` images with ids in descending order; return what was written."""
    rng = np.random.default_rng(7)
    arrays = {
        "features": rng.standard_normal((IMAGES, REGIONS, WIDTH)).astype(np.float32),
        "boxes": rng.random((IMAGES, REGIONS, 4)).astype(np.float32),
        "image_id": np.arange(IMAGES)[::-1].copy(),
        "size": np.full((IMAGES, 2), 64),
    } | kwargs
    write_features(path, **arrays)
    return arrays


def make_dataset(root: Path, split: str = "train", **options: Any) -> VQADataset:
    """A split of what `write_toy` wrote."""
    questions = VQACP().read(root, split, "third")
    annotations = questions.annotations
    vocabulary = AnswerVocabulary(["yes", "no", "1", "2", "red", "blue"])
    return VQADataset(
        questions,
        tokenise(questions.text, load_tokenizer(root), "standard"),
        SoftTargets.from_annotations(annotations, vocabulary),
        QuestionTypePrior.from_annotations(annotations, vocabulary),
        annotations.question_type.names,
        annotations.answer_type.names,
        RegionFeatures(root / "features.h5"),
        **options,
    )


def dump(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(orjson.dumps(content))


def write_toy_images(folder: Path) -> dict[int, np.ndarray]:
    """`IMAGES` images in two folders, named as COCO's; return their pixels (height, width, 3) by id."""
    rng = np.random.default_rng(3)
    pixels = {i: rng.integers(0, 256, (20 + i, 30 - i, 3), dtype=np.uint8) for i in range(IMAGES)}
    for i, values in pixels.items():
        split = "train2014" if i % 2 else "val2014"
        (folder / split).mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).save(folder / split / f"COCO_{split}_{i:012}.png")
    return pixels
