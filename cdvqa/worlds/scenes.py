"""`scenes`: a small, hard VQA world made from a seed, in the file formats of VQA-CP v2."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from cdvqa.worlds.drawing import sample_scene
from cdvqa.worlds.layout import Size, build_world, default_folder, write_split
from cdvqa.worlds.scene_folder import AskedScene, SceneFolder
from cdvqa.worlds.scene_questions import QUESTION_TYPES, Question, answer_prior, candidate_questions

VERSION = 2


@dataclass(frozen=True)
class SceneConstants:
    """Sizes of the world and what makes it hard.

    The defaults were chosen once, from full models alone: BCE learns the world but relies on the priors where they
    shift, and LMH does not. docs/claims.md has the numbers.
    """

    train_questions: int = 16_000
    id_questions: int = 4_000
    ood_questions: int = 4_000
    questions_per_image: int = 4
    noise: float = 2.4
    prior_strength: float = 0.85
    hard_share: float = 0.05

    def balanced(self) -> "SceneConstants":
        """The same world without feature noise and with uniform answer priors."""
        return replace(self, noise=0.0, prior_strength=0.0)


SIZES: dict[Size, SceneConstants] = {
    "full": SceneConstants(),
    "micro": SceneConstants(train_questions=4_000, id_questions=1_000, ood_questions=1_000),
}


def make_scenes(output: Path | None = None, seed: int = 0, size: Size = "full", balanced: bool = False) -> None:
    """Make `scenes`: 7,000 drawn images and 24,000 questions with shifted answer priors, in the files of VQA-CP v2.

    The answers of each question type follow a skewed prior in `train` and `id`, and the opposite one in `test`, the
    out-of-distribution test. Images are never shared between splits. The same seed gives the same files.

    Args:
        output: folder to make (default: data/scenes, data/scenes-micro or data/scenes-balanced).
        seed: seed of everything that is drawn.
        size: `micro` is a world of a quarter of the images and questions, for studies of many runs.
        balanced: without feature noise and with uniform answers: what a model reaches there is its ceiling.

    Raises:
        InputError: `output` exists and is not this world, complete.
    """
    name = "scenes-balanced" if balanced else "scenes"
    constants = SIZES[size].balanced() if balanced else SIZES[size]
    write_scenes(output or default_folder(name, size), seed, constants)


def write_scenes(output: Path, seed: int, constants: SceneConstants) -> None:
    """`make_scenes` with any constants."""
    identity = {"world": "scenes", "version": VERSION, "seed": seed, "constants": asdict(constants)}
    build_world(output, identity, lambda folder: _fill(folder, seed, constants))


def _fill(folder: Path, seed: int, constants: SceneConstants) -> None:
    rng = np.random.default_rng(seed)
    world = SceneFolder(folder, constants.noise, constants.hard_share, rng)
    for split, count, shifted in (
        ("train", constants.train_questions, False),
        ("id", constants.id_questions, False),
        ("test", constants.ood_questions, True),
    ):
        asked = ask_scenes(count, constants.prior_strength, shifted, constants.questions_per_image, rng)
        write_split(folder, split, [question.record for question in world.annotated(asked, split, count)])
    world.finish()


def ask_scenes(
    count: int, strength: float, shifted: bool, per_image: int, rng: np.random.Generator
) -> Iterator[AskedScene]:
    """Sample scenes with at most `per_image` questions each, until `count` questions follow the prior."""
    wanted: Counter[tuple[str, str]] = Counter()
    types = rng.multinomial(count, np.full(len(QUESTION_TYPES), 1 / len(QUESTION_TYPES)))
    for question_type, number in zip(QUESTION_TYPES, types, strict=True):
        drawn = rng.multinomial(number, answer_prior(question_type, strength, shifted))
        answers = QUESTION_TYPES[question_type].answers
        wanted.update({(question_type, answer): int(n) for answer, n in zip(answers, drawn, strict=True) if n})
    while wanted:
        things = sample_scene(rng)
        questions = _take(wanted, candidate_questions(things), per_image, rng)
        if questions:
            yield AskedScene(things, questions)


def _take(
    wanted: Counter[tuple[str, str]],
    candidates: dict[tuple[str, str], list[str]],
    per_image: int,
    rng: np.random.Generator,
) -> list[Question]:
    """Draw questions that are still wanted, each at most once, in proportion to their number in `wanted`; reduce it."""
    taken: list[Question] = []
    for _ in range(per_image):
        keys = [key for key in wanted if candidates.get(key)]
        if not keys:
            break
        weights = np.array([wanted[key] for key in keys], float)
        key = keys[int(rng.choice(len(keys), p=weights / weights.sum()))]
        text = candidates[key].pop(int(rng.integers(len(candidates[key]))))
        taken.append(Question(text, *key))
        wanted[key] -= 1
        if not wanted[key]:
            del wanted[key]
    return taken
