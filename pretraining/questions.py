"""Questions about the balanced world without noise, with the contents of their scenes."""

from typing import NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from cdvqa.data.questions.text import tokenise
from cdvqa.worlds.drawing import COLOURS, SHAPES, SIZES, Regions, Thing, cut_regions, draw_scene
from cdvqa.worlds.scene_questions import PLURALS, QUESTION_TYPES, Question, annotate
from cdvqa.worlds.scenes import SceneConstants, ask_scenes

ANSWERS = sorted({answer for kind in QUESTION_TYPES.values() for answer in kind.answers})


class Asked(NamedTuple):
    """N questions about M scenes.

    `scenes` (M) and `regions` (M) of their images, `image` (N,) row of the question's scene, ascending,
    `ids` (N, T), `named` (N, colours + shapes) 1 where the question has the word, `target` (N, A) soft scores.
    """

    scenes: list[list[Thing]]
    regions: list[Regions]
    image: Tensor
    ids: Tensor
    named: Tensor
    target: Tensor


def ask_balanced(count: int, seed: int, tokenizer: Tokenizer) -> Asked:
    """Ask `count` questions about the balanced world without noise."""
    rng = np.random.default_rng([seed, 1])
    constants = SceneConstants().balanced()
    scenes: list[list[Thing]] = []
    regions: list[Regions] = []
    image: list[int] = []
    questions: list[Question] = []
    for scene in ask_scenes(count, constants.prior_strength, False, constants.questions_per_image, rng):
        image += [len(scenes)] * len(scene.questions)
        questions += scene.questions
        scenes.append(scene.things)
        regions.append(cut_regions(draw_scene(scene.things), scene.things, constants.noise, rng))
    target = torch.zeros(len(questions), len(ANSWERS))
    for row, question in enumerate(questions):
        for answer in annotate(question, rng, constants.hard_share):
            target[row, ANSWERS.index(answer["answer"])] += 1 / 3
    text = [question.text for question in questions]
    pieces = tokenise(text, tokenizer, "standard")
    assert pieces.lengths is not None
    return Asked(
        scenes=scenes,
        regions=regions,
        image=torch.tensor(image),
        ids=torch.from_numpy(pieces.ids[:, : pieces.lengths.max()].astype(np.int64)),
        named=torch.tensor([_named_words(question) for question in text]),
        target=target.clamp(max=1),
    )


def _named_words(question: str) -> list[float]:
    words = question.rstrip("?").split()
    colours = [float(colour in words) for colour in COLOURS]
    return colours + [float(shape in words or plural in words) for shape, plural in PLURALS.items()]


def what_it_is(thing: Thing) -> list[int]:
    """Indices of its colour, shape and size."""
    return [list(COLOURS).index(thing.colour), SHAPES.index(thing.shape), list(SIZES).index(thing.size)]
