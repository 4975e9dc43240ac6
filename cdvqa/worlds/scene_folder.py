"""Writes a world of scenes: images, regions and annotated questions."""

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cdvqa.data.visual.features import write_features
from cdvqa.messages import progress_bar
from cdvqa.worlds.drawing import HEIGHT, WIDTH, Regions, Thing, cut_regions, draw_scene
from cdvqa.worlds.layout import ID_STEP, Record, record, write_vocabulary
from cdvqa.worlds.scene_questions import LANGUAGE, QUESTION_TYPES, Question, annotate

# The small pre-trained models, made by `python -m pretraining.pretrain`.
SHIPPED = {name: Path(__file__).parent / f"scenes_{name}" for name in ("lxmert", "visualbert", "mplug")}


class AskedScene(NamedTuple):
    """A scene and its questions."""

    things: list[Thing]
    questions: list[Question]


class AnnotatedQuestion(NamedTuple):
    """A question about a scene, and its entries in the two files of its split."""

    things: list[Thing]
    question: Question
    record: Record


class SceneFolder:
    """Fills a world's folder. Images are numbered from 1 in the order in which they are added.

    Args:
        folder: the world's folder, which exists and is empty.
        noise: standard deviation of the noise in each number of a feature; see `cut_regions`.
        hard_share: share of questions whose annotators often err; see `annotate`.
        rng: draws noise and annotators.
    """

    def __init__(self, folder: Path, noise: float, hard_share: float, rng: np.random.Generator) -> None:
        self.folder, self.noise, self.hard_share, self.rng = folder, noise, hard_share, rng
        self.regions: list[Regions] = []
        (folder / "images").mkdir()

    def annotated(self, scenes: Iterable[AskedScene], split: str, count: int) -> Iterator[AnnotatedQuestion]:
        """Add scenes with `count` questions in all, and yield these; a progress bar shows the split's name."""
        with progress_bar(f"questions of {split}", count) as advance:
            for scene in scenes:
                yield from self._add(scene)
                advance(len(scene.questions))

    def _add(self, scene: AskedScene) -> list[AnnotatedQuestion]:
        """Draw a scene and annotate its questions."""
        image = draw_scene(scene.things)
        self.regions.append(cut_regions(image, scene.things, self.noise, self.rng))
        image_id = len(self.regions)
        image.save(self.folder / "images" / f"{image_id}.png")
        annotated = []
        for question_id, question in enumerate(scene.questions, image_id * ID_STEP):
            kind, answer_type = question.question_type, QUESTION_TYPES[question.question_type].answer_type
            answers = annotate(question, self.rng, self.hard_share)
            written = record(question_id, image_id, question.text, "scenes", kind, answer_type, answers)
            annotated.append(AnnotatedQuestion(scene.things, question, written))
        return annotated

    def finish(self) -> None:
        """Write the features of every image and the vocabulary, and copy the small pre-trained models."""
        for name, shipped in SHIPPED.items():
            shutil.copytree(shipped, self.folder / name)
        images = len(self.regions)
        write_features(
            self.folder / "features.h5",
            features=np.stack([region.features for region in self.regions]).astype(np.float16),
            boxes=np.stack([region.boxes for region in self.regions]),
            image_id=np.arange(1, images + 1),
            size=np.tile((WIDTH, HEIGHT), (images, 1)),
            num_boxes=np.array([len(region.things) for region in self.regions]),
        )
        write_vocabulary(self.folder / "vocab.txt", LANGUAGE)
