"""`scenes-vs`: the scenes with several shortcuts at once and one OOD test for each, in the files of VQA-VS.

A shortcut is a concept of a question or its image that coincides with one answer far too often. Three are
planted: the question type (QT), the keyword (KW: the colour or thing asked about) and the key object (KO: the most
frequent shape of the image). The others of VQA-VS are pairs (KWP, KOP) and combinations of these.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cdvqa.worlds.drawing import Thing, sample_scene
from cdvqa.worlds.layout import Record, Size, build_world, default_folder, write_records
from cdvqa.worlds.scene_folder import AskedScene, SceneFolder
from cdvqa.worlds.scene_questions import LANGUAGE, QUESTION_TYPES, Question, candidate_questions
from cdvqa.worlds.scenes import SceneConstants

VERSION = 2
SPLITS = {"Training": "train_questions", "Val": "val_questions", "IID-Test": "test_questions"}
SHORTCUTS = ("QT", "KW", "KWP", "QT+KW", "KO", "KOP", "QT+KO", "KW+KO", "QT+KW+KO")


@dataclass(frozen=True)
class ShortcutConstants:
    """Numbers of questions, and how many times likelier a planted shortcut makes the answer that it suggests."""

    train_questions: int = 16_000
    val_questions: int = 1_500
    test_questions: int = 8_000
    boost: float = 6.0


SIZES: dict[Size, ShortcutConstants] = {
    "full": ShortcutConstants(),
    "micro": ShortcutConstants(train_questions=4_000, val_questions=400, test_questions=2_000),
}


def make_scenes_vs(output: Path | None = None, seed: int = 0, size: Size = "full") -> None:
    """Make `scenes-vs`: the scenes with the planted shortcuts and the nine OOD tests of VQA-VS, parts of IID-Test.

    OOD-Test/<S> holds the questions of IID-Test whose answer is rarer than uniform in training, among the questions
    of the same type with the same concept of shortcut S; for a combination such as QT+KW, of each of its parts.

    Args:
        output: folder to make (default: data/scenes-vs, or data/scenes-vs-micro).
        seed: seed of everything that is drawn.
        size: `micro` is a world of a quarter of the images and questions, for studies of many runs.

    Raises:
        InputError: `output` exists and is not this world, complete.
    """
    write_scenes_vs(output or default_folder("scenes-vs", size), seed, SIZES[size])


def write_scenes_vs(output: Path, seed: int, constants: ShortcutConstants) -> None:
    """`make_scenes_vs` with any constants."""
    identity = {"world": "scenes-vs", "version": VERSION, "seed": seed, "constants": asdict(constants)}
    build_world(output, identity, lambda folder: _fill(folder, seed, constants))


def concepts(question: Question, things: list[Thing]) -> dict[str, tuple[str, ...]]:
    """Concepts of the question and its image by shortcut. Combined shortcuts have none of their own."""
    keywords = _keywords(question)
    objects = _shapes_by_number(things)
    return {
        "QT": (question.question_type,),
        "KW": keywords[:1],
        "KWP": keywords[:2],
        "KO": objects[:1],
        "KOP": objects[:2],
    }


def _keywords(question: Question) -> tuple[str, ...]:
    words = question.text.rstrip("?").split()[len(question.question_type.split()) :]
    return tuple(word for word in words if word not in STOP_WORDS)


def _shapes_by_number(things: list[Thing]) -> tuple[str, ...]:
    shapes = Counter(thing.shape for thing in things)
    return tuple(sorted(shapes, key=lambda shape: (-shapes[shape], shape)))


STOP_WORDS = {"the", "thing", "things", "are", "there", "visible", "on", "at"}


def suggested(question_type: str, concept: str) -> str:
    """The answer that a planted concept suggests for a question type."""
    answers = QUESTION_TYPES[question_type].answers
    return answers[(NUMBER[concept] + list(QUESTION_TYPES).index(question_type)) % len(answers)]


# Spreads the suggested answers over those of a type. Any numbering would do, but another one makes another world.
NUMBER = {
    name: number
    for number, name in enumerate(
        [*QUESTION_TYPES, *sorted({word for text in LANGUAGE for word in text.rstrip("?").split()})]
    )
}


def ask_with_shortcuts(count: int, boost: float, per_image: int, rng: np.random.Generator) -> Iterator[AskedScene]:
    """Sample scenes and questions; an answer is `boost` times likelier for each planted concept that suggests it."""
    left = count
    while left:
        things = sample_scene(rng)
        candidates = [Question(text, *key) for key, texts in candidate_questions(things).items() for text in texts]
        weights = _weights(candidates, things, boost)
        number = min(left, per_image, int((weights > 0).sum()))
        chosen = rng.choice(len(candidates), size=number, replace=False, p=weights)
        yield AskedScene(things, [candidates[index] for index in chosen])
        left -= number


def _weights(candidates: list[Question], things: list[Thing], boost: float) -> NDArray[np.float64]:
    """Without boosts, all answers of a type are equally likely, however many questions have them; all types too."""
    shared = Counter((question.question_type, question.answer) for question in candidates)
    weights: NDArray[np.float64] = np.empty(len(candidates))
    key_object = _shapes_by_number(things)[0]
    for index, question in enumerate(candidates):
        planted = question.question_type, _keywords(question)[0], key_object
        hits = sum(suggested(question.question_type, concept) == question.answer for concept in planted)
        weights[index] = boost**hits / shared[question.question_type, question.answer]
    totals: dict[str, float] = defaultdict(float)
    for question, weight in zip(candidates, weights, strict=True):
        totals[question.question_type] += weight
    weights /= np.array([totals[question.question_type] for question in candidates])
    return weights / len(totals)


def _fill(folder: Path, seed: int, constants: ShortcutConstants) -> None:
    rng = np.random.default_rng(seed)
    defaults = SceneConstants()
    world = SceneFolder(folder, defaults.noise, defaults.hard_share, rng)
    training: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    ood: dict[str, list[Record]] = {shortcut: [] for shortcut in SHORTCUTS}
    for split, field in SPLITS.items():
        records: list[Record] = []
        count = getattr(constants, field)
        asked = ask_with_shortcuts(count, constants.boost, defaults.questions_per_image, rng)
        for things, question, record in world.annotated(asked, split, count):
            records.append(record)
            shown = concepts(question, things)
            answers = {name: training[name, question.question_type, *concept] for name, concept in shown.items()}
            if split == "Training":
                for counts in answers.values():
                    counts[question.answer] += 1
            elif split == "IID-Test":
                rare = {name for name, counts in answers.items() if _is_rare(question, counts)}
                for shortcut in SHORTCUTS:
                    if rare.issuperset(shortcut.split("+")):
                        ood[shortcut].append(record)
        _write(folder / split, split, records)
    for shortcut in SHORTCUTS:
        _write(folder / "OOD-Test" / shortcut, f"OOD-Test-{shortcut}", ood[shortcut])
    world.finish()


def _is_rare(question: Question, answers: Counter[str]) -> bool:
    """Whether the answer is rarer in training than if all answers of the type were equally likely."""
    return answers[question.answer] * len(QUESTION_TYPES[question.question_type].answers) < answers.total()


def _write(folder: Path, stem: str, records: list[Record]) -> None:
    write_records(folder / f"{stem}-Ques.json", folder / f"{stem}-Ans.json", records)
