"""Random reads of region features, and the loader that makes batches of them, against bare reads of the same bytes."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.record import Record, interleave
from cdvqa.data.answers.prior import QuestionTypePrior
from cdvqa.data.answers.targets import SoftTargets
from cdvqa.data.answers.vocabulary import AnswerVocabulary
from cdvqa.data.dataset import VQADataset
from cdvqa.data.loaders import BatchLoader, TrainingLoader
from cdvqa.data.questions.annotations import Annotations, Categories, HumanAnswers
from cdvqa.data.questions.official import Questions
from cdvqa.data.questions.text import TokenisedQuestions
from cdvqa.data.visual.features import RegionFeatures

REGIONS, WIDTH, ANSWERS, TYPES = 36, 2048, 2274, 65
BATCH = 256
NOTE = (
    "Reading: warm page cache, features of 36 x 2048, batches of 256 into reused memory, rates by wall clock. The "
    "limit calls `preadv` once for an image's features and once for its boxes, into one buffer of a batch's size. The "
    "loader's batches include soft targets and priors of 2,274 answers, and the consumer reads every region. The "
    "loader's baseline is a torch DataLoader with h5py, one item at a time, and the default collate function."
)


def measure(folder: Path, images: int = 4000, batches: int = 40, repeats: int = 9) -> list[Record]:
    records = []
    for dtype, name in (("float32", "fp32"), ("float16", "fp16")):
        plain, chunked = folder / f"{name}.h5", folder / f"{name}_chunked.h5"
        write_file(plain, images, dtype, chunks=None)
        write_file(chunked, images, dtype, chunks=True)
        os.sync()
        records += [*reads(plain, chunked, name, repeats), *loaders(plain, name, batches, repeats)]
        plain.unlink()
        chunked.unlink()
    return records


def write_file(path: Path, images: int, dtype: str, chunks: bool | None) -> None:
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        features = file.create_dataset("features", (images, REGIONS, WIDTH), dtype, chunks=chunks)
        step = features.chunks[0] if features.chunks else BATCH
        block = rng.standard_exponential((step, REGIONS, WIDTH), np.float32).astype(dtype)
        for start in range(0, images, step):
            features[start : start + step] = block[: images - start]
        file["boxes"] = rng.random((images, REGIONS, 4), np.float32)
        file["image_id"] = np.arange(images)


def reads(plain: Path, chunked: Path, name: str, repeats: int) -> list[Record]:
    """All images in random order: seen before, seen for the first time, and through h5py over its own chunks."""
    reader = RegionFeatures(plain)
    chosen = np.random.default_rng(1).permutation(len(reader))[: len(reader) // BATCH * BATCH].reshape(-1, BATCH)
    fresh = iter([RegionFeatures(plain) for _ in range(repeats + 1)])  # a reader checks what it sees for the first time
    buffer = np.empty((BATCH, *reader.shape[1:]), reader.dtype)

    def read(reader: RegionFeatures) -> None:
        for rows in chosen:
            reader.read(rows, out=buffer)

    times = interleave(
        {
            "seen": lambda: read(reader),
            "first": lambda: read(next(fresh)),
            "limit": lambda: bare(plain, chosen, buffer),
            "limit, no boxes": lambda: bare(plain, chosen, buffer, boxes=False),
        },
        repeats,
    )
    with h5py.File(chunked) as file:
        in_order = np.sort(chosen[0])  # as h5py wants them
        slow = interleave({"chunks": lambda: file["features"][in_order], "seen": lambda: read(reader)}, 3)
    rate = {arm: chosen.size / of.median for arm, of in times.items()}
    beside, usual = chosen.size / slow["seen"].median, BATCH / slow["chunks"].median
    note = f"{rate['seen'] / rate['limit, no boxes']:.2f} of a limit without boxes; spread {times['seen'].spread:.0%}"
    unit, limit = "images/s", rate["limit"]
    return [
        Record(f"random reads, {name}", rate["seen"], unit, usual, limit, "limit", ">= 0.75", note),
        Record(f"random reads, {name}, images not seen before", rate["first"], unit, usual, limit, "limit"),
        Record(f"random reads, {name}, beside h5py over chunks", beside, unit, usual, limit, goal=">= 5"),
    ]


def loaders(path: Path, name: str, batches: int, repeats: int) -> list[Record]:
    """An epoch of `batches` batches, read in the main thread and by two threads."""
    dataset = make_dataset(path, batches * BATCH)
    chosen = np.random.default_rng(2).permutation(dataset.image_id).reshape(batches, BATCH)
    buffer = np.empty((BATCH, *dataset.visual.image_shape), dataset.visual.dtype)
    ours = {workers: TrainingLoader(dataset, BATCH, num_workers=workers) for workers in (0, 2)}
    fewer = range(max(len(dataset) // 4, BATCH))
    usual = {workers: DataLoader(Items(path, dataset), BATCH, sampler=fewer, num_workers=workers) for workers in (0, 2)}
    arms: dict[str, Callable[[], None]] = {"limit": lambda: bare(path, chosen, buffer)}
    for workers in (0, 2):
        arms[f"ours, {workers}"] = partial(consume_ours, ours[workers])
        arms[f"usual, {workers}"] = partial(consume_usual, usual[workers])
    times = interleave(arms, repeats)
    rate = {arm: (len(fewer) if "usual" in arm else len(dataset)) / times[arm].median for arm in arms}
    return [
        Record(
            f"loader, {name}, {how}",
            rate[f"ours, {workers}"],
            "images/s",
            rate[f"usual, {workers}"],
            rate["limit"],
            "limit",
            goal,
            f"by CPU time {times['limit'].cpu_median / times[f'ours, {workers}'].cpu_median:.2f}; "
            f"spread {times[f'ours, {workers}'].spread:.0%}",
        )
        for workers, how, goal in ((0, "in process", ">= 0.35"), (2, "2 workers", ">= 0.25"))
    ]


def bare(path: Path, chosen: np.ndarray, features: np.ndarray, boxes: bool = True) -> None:
    """Batches (n, B) of images by offset into `features` (B, R, F)."""
    with h5py.File(path) as file:
        features_at, boxes_at = (file[name].id.get_offset() for name in ("features", "boxes"))
    into = np.empty((len(features), REGIONS, 4), np.float32)
    size, boxes_size = features[0].nbytes, into[0].nbytes
    descriptor = os.open(path, os.O_RDONLY)
    for rows in chosen:
        for place, row in enumerate(rows.tolist()):
            os.preadv(descriptor, [features[place]], features_at + row * size)
            if boxes:
                os.preadv(descriptor, [into[place]], boxes_at + row * boxes_size)
    os.close(descriptor)


def consume_ours(loader: BatchLoader) -> None:
    for batch in loader:
        assert batch.region_features is not None and batch.soft_target is not None
        touch(batch.region_features, batch.soft_target)


def consume_usual(loader: DataLoader[dict[str, Any]]) -> None:
    for batch in loader:
        touch(batch["features"], batch["target"])


def touch(features: Tensor, target: Tensor) -> float:
    return float(features[:, :, 0].sum() + target.sum())


class Items(Dataset[dict[str, Any]]):
    """One question at a time, through h5py, as most code does."""

    def __init__(self, path: Path, dataset: VQADataset) -> None:
        self.path, self.dataset = path, dataset
        self.file: h5py.File | None = None

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, row: int) -> dict[str, Any]:
        self.file = self.file or h5py.File(self.path)  # in the worker that reads
        image = self.dataset.image_id[row]
        return {
            "question_id": self.dataset.question_id[row],
            "input_ids": self.dataset.tokens.ids[row].astype(np.int64),
            "features": self.file["features"][image],
            "boxes": self.file["boxes"][image],
            "target": self.dataset.targets.dense(np.array([row]))[0],
        }


def make_dataset(path: Path, questions: int) -> VQADataset:
    """Questions with ten answers each, seven of them equal."""
    rng = np.random.default_rng(3)
    names = [f"answer {number}" for number in range(ANSWERS)]
    codes = rng.integers(0, ANSWERS, (questions, 10), np.int32)
    codes[:, :7] = codes[:, :1]
    answers = HumanAnswers(names, codes.ravel(), np.arange(0, 10 * questions + 1, 10))
    kinds = Categories([f"type {number}" for number in range(TYPES)], rng.integers(0, TYPES, questions, np.int32))
    choice = Categories(names, codes[:, 0].copy())
    annotations = Annotations(np.arange(questions), kinds, kinds, choice, answers)
    targets = SoftTargets.from_annotations(annotations, AnswerVocabulary(names))
    features = RegionFeatures(path)
    return VQADataset(
        Questions(rng.integers(0, len(features), questions), [""] * questions, annotations),
        TokenisedQuestions(rng.integers(0, 30_522, (questions, 20), np.uint16), np.full(questions, 9, np.uint8)),
        targets,
        QuestionTypePrior.from_targets(kinds, targets),
        kinds.names,
        kinds.names,
        features,
    )
