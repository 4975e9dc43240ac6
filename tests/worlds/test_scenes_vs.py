"""The VQA-VS-style world: its layout, its planted shortcuts, and that each OOD test breaks its own."""

import json
from collections import Counter, defaultdict
from pathlib import Path

import h5py
import numpy as np
import pytest

from cdvqa.worlds.drawing import Thing
from cdvqa.worlds.scene_questions import Question
from cdvqa.worlds.scenes_vs import SHORTCUTS, ShortcutConstants, concepts, suggested, write_scenes_vs

SMALL = ShortcutConstants(train_questions=1200, val_questions=60, test_questions=400)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("worlds") / "scenes-vs"
    write_scenes_vs(folder, 0, SMALL)
    return folder


def read(folder: Path, stem: str, kind: str) -> list[dict]:
    return json.loads((folder / f"{stem}-{kind}.json").read_text())


def test_the_layout_is_that_of_vqa_vs(world: Path) -> None:
    sizes = {"Training": 1200, "Val": 60, "IID-Test": 400}
    images = []
    for split, count in sizes.items():
        questions, annotations = read(world / split, split, "Ques"), read(world / split, split, "Ans")
        assert len(questions) == count
        assert [q["question_id"] for q in questions] == [a["question_id"] for a in annotations]
        assert all(len(a["answers"]) == 10 for a in annotations)
        images.append({q["image_id"] for q in questions})
    assert sum(map(len, images)) == len(set.union(*images)), "no image is in two splits"
    with h5py.File(world / "features.h5") as file:
        assert set(file["image_id"][:]) == set.union(*images)
    assert {path.name for path in (world / "OOD-Test").iterdir()} == set(SHORTCUTS)


def test_every_ood_test_is_a_proper_part_of_the_iid_test(world: Path) -> None:
    iid = {q["question_id"] for q in read(world / "IID-Test", "IID-Test", "Ques")}
    for shortcut in SHORTCUTS:
        stem = f"OOD-Test-{shortcut}"
        questions = [q["question_id"] for q in read(world / "OOD-Test" / shortcut, stem, "Ques")]
        assert questions == [a["question_id"] for a in read(world / "OOD-Test" / shortcut, stem, "Ans")]
        assert 0 < len(questions) < 0.6 * len(iid)
        assert set(questions) < iid


def test_a_combination_breaks_each_of_its_parts(world: Path) -> None:
    ids = {
        name: {q["question_id"] for q in read(world / "OOD-Test" / name, f"OOD-Test-{name}", "Ques")}
        for name in SHORTCUTS
    }
    assert ids["QT+KW+KO"] == ids["QT"] & ids["KW"] & ids["KO"]
    assert ids["KW+KO"] == ids["KW"] & ids["KO"]


def test_question_types_suggest_answers_in_training_but_not_out_of_distribution(world: Path) -> None:
    def suggested_share(annotations: list[dict]) -> float:
        hits = [a["multiple_choice_answer"] == suggested(a["question_type"], a["question_type"]) for a in annotations]
        return float(np.mean(hits))

    training = suggested_share(read(world / "Training", "Training", "Ans"))
    broken = suggested_share(read(world / "OOD-Test" / "QT", "OOD-Test-QT", "Ans"))
    assert training > 0.45 and broken < 0.2


def test_keywords_suggest_answers_in_training(world: Path) -> None:
    counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    questions, annotations = read(world / "Training", "Training", "Ques"), read(world / "Training", "Training", "Ans")
    for question, annotation in zip(questions, annotations, strict=True):
        if annotation["question_type"] == "are there any":
            keyword = question["question"].split()[3]
            counts[keyword.rstrip("?"), suggested("are there any", keyword.rstrip("?"))].update(
                [annotation["multiple_choice_answer"]]
            )
    likelier = [c[answer] / c.total() - 0.5 for (_, answer), c in counts.items()]
    assert np.mean(likelier) > 0.05


def test_concepts_are_what_the_question_and_the_image_show() -> None:
    things = [
        Thing("red", "cube", "large", 30, 30),
        Thing("red", "cube", "small", 80, 30),
        Thing("blue", "ball", "small", 80, 70),
    ]
    shown = concepts(Question("is there a red cube?", "is there a", "yes"), things)
    assert shown == {
        "QT": ("is there a",),
        "KW": ("red",),
        "KWP": ("red", "cube"),
        "KO": ("cube",),
        "KOP": ("cube", "ball"),
    }
    assert concepts(Question("what is the thing on the left?", "what is the", "cube"), things)["KW"] == ("left",)


def test_the_same_seed_gives_the_same_files(tmp_path: Path) -> None:
    tiny = ShortcutConstants(train_questions=40, val_questions=8, test_questions=40)
    write_scenes_vs(tmp_path / "a", 5, tiny)
    write_scenes_vs(tmp_path / "b", 5, tiny)
    files = [path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.*") if path.is_file()]
    assert len(files) > 20 and all(
        (tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files
    )
