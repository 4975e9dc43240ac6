"""Questions about a scene, their answer priors, and their ten simulated annotators."""

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cdvqa.worlds.drawing import COLOURS, HEIGHT, SHAPES, SIZES, WIDTH, Thing

COUNTS = ("0", "1", "2", "3", "4")
CORNERS = ("top left", "top right", "bottom left", "bottom right")
YES_NO = ("yes", "no")
PLURALS = {shape: "crosses" if shape == "cross" else f"{shape}s" for shape in SHAPES}
SIDES = {"on the left": (0, -1), "on the right": (0, 1), "at the top": (1, -1), "at the bottom": (1, 1)}
TEMPLATES = {
    "is there a": "is there a {colour} {shape}?",
    "are there any": "are there any {things}?",
    "is the": "is the {name} {side}?",
    "how many": "how many {colour} things are there?",
    "what number of": "what number of {plural} are visible?",
    "what color is the": "what color is the {name}?",
    "what shape is the": "what shape is the {name}?",
    "what is the": "what is the thing {side}?",
    "where is the": "where is the {name}?",
    "what size is the": "what size is the {name}?",
}
# Texts that together contain every word of every question.
LANGUAGE = (
    *(re.sub(r"{.*?}", "", template) for template in TEMPLATES.values()),
    *COLOURS, *PLURALS, *PLURALS.values(), *SIDES, "thing", "things",
)  # fmt: skip
MARGIN = 8  # pixels between a thing and the next one further in, so that no answer depends on one pixel
ANNOTATORS = 10


class QuestionType(NamedTuple):
    """A question prefix, as frequent as any other: its possible answers, and those that train favours."""

    answer_type: str
    answers: tuple[str, ...]
    favourites: tuple[str, ...]


QUESTION_TYPES = {
    "is there a": QuestionType("yes/no", YES_NO, ("yes",)),
    "are there any": QuestionType("yes/no", YES_NO, ("no",)),
    "is the": QuestionType("yes/no", YES_NO, ("yes",)),
    "how many": QuestionType("number", COUNTS, ("1",)),
    "what number of": QuestionType("number", COUNTS, ("2",)),
    "what color is the": QuestionType("other", tuple(COLOURS), ("red", "blue")),
    "what shape is the": QuestionType("other", SHAPES, ("cube", "star")),
    "what is the": QuestionType("other", SHAPES, ("ball", "cone")),
    "where is the": QuestionType("other", CORNERS, ("top left",)),
    "what size is the": QuestionType("other", tuple(SIZES), ("large",)),
}


class Question(NamedTuple):
    """A question about a scene with its true answer."""

    text: str
    question_type: str
    answer: str


def answer_prior(question_type: str, strength: float, shifted: bool) -> NDArray[np.float64]:
    """Probabilities of the type's answers: `strength` on its favourites (all others if `shifted`), the rest uniform."""
    kind = QUESTION_TYPES[question_type]
    preferred = np.array([(answer in kind.favourites) != shifted for answer in kind.answers], float)
    prior: NDArray[np.float64] = strength * preferred / preferred.sum() + (1 - strength) / len(kind.answers)
    return prior


def candidate_questions(things: list[Thing]) -> dict[tuple[str, str], list[str]]:
    """Every possible question about the scene: (question type, answer) -> question texts."""
    candidates: dict[tuple[str, str], list[str]] = defaultdict(list)
    for text, question_type, answer in _enumerate(things):
        candidates[question_type, answer].append(text)
    return candidates


def _enumerate(things: list[Thing]) -> Iterator[Question]:
    colours = [thing.colour for thing in things]
    shapes = [thing.shape for thing in things]
    pairs = set(zip(colours, shapes, strict=True))
    for colour in COLOURS:
        yield _ask("are there any", _yes_no(colour in colours), things=f"{colour} things")
        if colours.count(colour) < len(COUNTS):
            yield _ask("how many", str(colours.count(colour)), colour=colour)
        for shape in SHAPES:
            if colour in colours or shape in shapes:
                yield _ask("is there a", _yes_no((colour, shape) in pairs), colour=colour, shape=shape)
    for shape, plural in PLURALS.items():
        yield _ask("are there any", _yes_no(shape in shapes), things=plural)
        if shapes.count(shape) < len(COUNTS):
            yield _ask("what number of", str(shapes.count(shape)), plural=plural)

    named = _unique_names(things)
    for name, thing in named.items():
        if name == thing.shape:
            yield _ask("what color is the", thing.colour, name=name)
        else:
            yield _ask("what shape is the", thing.shape, name=name)
        yield _ask("what size is the", thing.size, name=name)
        offset = thing.x - WIDTH // 2, thing.y - HEIGHT // 2
        if min(map(abs, offset)) > MARGIN // 2:
            yield _ask("where is the", CORNERS[2 * (offset[1] > 0) + (offset[0] > 0)], name=name)
            for side, (axis, sign) in SIDES.items():
                yield _ask("is the", _yes_no(sign * offset[axis] > 0), name=name, side=side)
    for side, (axis, sign) in SIDES.items():
        first, second = sorted(things, key=lambda t: -sign * (t.x, t.y)[axis])[:2]
        if abs((first.x, first.y)[axis] - (second.x, second.y)[axis]) > MARGIN:
            yield _ask("what is the", first.shape, side=side)


def _ask(question_type: str, answer: str, **words: str) -> Question:
    return Question(TEMPLATES[question_type].format(**words), question_type, answer)


def _yes_no(truth: bool) -> str:
    return "yes" if truth else "no"


def _unique_names(things: list[Thing]) -> dict[str, Thing]:
    """Names of exactly one thing: "red thing" if no other is red, "cone" if no other is a cone."""
    owners: dict[str, list[Thing]] = defaultdict(list)
    for thing in things:
        owners[f"{thing.colour} thing"].append(thing)
        owners[thing.shape].append(thing)
    return {name: owned[0] for name, owned in owners.items() if len(owned) == 1}


def annotate(question: Question, rng: np.random.Generator, hard_share: float) -> list[dict[str, Any]]:
    """Ten answers in the VQA schema. An annotator errs with probability 0.3 on a hard question, 0.01 on others."""
    answers = QUESTION_TYPES[question.question_type].answers
    error = 0.3 if rng.random() < hard_share else 0.01
    given = []
    for number in range(1, ANNOTATORS + 1):
        wrong = rng.random() < error
        answer = _mistake(question.answer, answers, rng) if wrong else question.answer
        given.append({"answer": answer, "answer_confidence": "maybe" if wrong else "yes", "answer_id": number})
    return given


def _mistake(truth: str, answers: tuple[str, ...], rng: np.random.Generator) -> str:
    """Any other answer of the type; a wrong count is one too high or too low."""
    if answers is COUNTS:
        others = [count for count in COUNTS if abs(int(count) - int(truth)) == 1]
    else:
        others = [answer for answer in answers if answer != truth]
    return others[int(rng.integers(len(others)))]
