"""Wrong data gets one clear line and status 2, and leaves nothing behind."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.conftest import last_error, overlay, run_names, the_run

Command = Callable[..., int]
QUESTIONS, ANNOTATIONS = "vqacp_v2_train_questions.json", "vqacp_v2_train_annotations.json"


@pytest.fixture
def broken(scenes: Path, tmp_path: Path) -> Path:
    """A copy of the small world, to be broken; images are left out."""
    return Path(shutil.copytree(scenes, tmp_path / "broken", ignore=shutil.ignore_patterns("images")))


def edit(path: Path, change: Callable[[list], list]) -> None:
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def recode(path: Path, encoding: str) -> None:
    entries = json.loads(path.read_text())
    entries[0]["note"] = "café"
    path.write_text(json.dumps(entries, ensure_ascii=False), encoding=encoding)


def truncate(world: Path) -> None:
    whole = (world / "features.h5").read_bytes()
    (world / "features.h5").write_bytes(whole[: len(whole) // 2])


def drop_an_image(world: Path) -> None:
    with h5py.File(world / "features.h5", "r+") as file:
        file["image_id"][0] = 999_999


def put_nan(world: Path) -> None:
    with h5py.File(world / "features.h5", "r+") as file:
        file["features"][:, 0, 0] = np.nan


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no features": (lambda world: (world / "features.h5").unlink(), "features.h5"),
    "truncated features": (truncate, "features.h5"),
    "an image without features": (drop_an_image, "image 1"),
    "NaN features": (put_nan, "NaN"),
    "no questions": (lambda world: (world / QUESTIONS).unlink(), QUESTIONS),
    "broken JSON": (lambda world: (world / QUESTIONS).write_text('[{"question_id": 1'), QUESTIONS),
    "an annotation without its question": (lambda world: edit(world / QUESTIONS, lambda entries: entries[1:]), "1000"),
    "a question without its annotation": (lambda world: edit(world / ANNOTATIONS, lambda entries: entries[1:]), "1000"),
    "a question twice": (lambda world: edit(world / QUESTIONS, lambda entries: [*entries, entries[0]]), "1000"),
    "answers that are not ten": (
        lambda world: edit(world / ANNOTATIONS, lambda entries: [entries[0] | {"answers": entries[0]["answers"][:3]}]),
        "record 0 (question 1000) has 3 answers",
    ),
    "UTF-16": (lambda world: recode(world / QUESTIONS, "utf-16"), f"{QUESTIONS}: the text is in UTF-16"),
    "Latin-1": (lambda world: recode(world / ANNOTATIONS, "latin-1"), f"{ANNOTATIONS}: the text is not in UTF-8"),
    "half a character": (
        lambda world: edit(world / QUESTIONS, lambda entries: [entries[0] | {"question": "\ud83d"}, *entries[1:]]),
        "half a surrogate pair",
    ),
    "a dictionary": (lambda world: (world / ANNOTATIONS).write_text('{"x": 1}'), ANNOTATIONS),
    "another vocabulary size": (lambda world: None, "--data.num_answers"),
    "no vocabulary of word pieces": (lambda world: (world / "vocab.txt").unlink(), "--data.tokenizer"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_broken_data_is_named(
    cdvqa: Command, scenes: Path, broken: Path, capsys: pytest.CaptureFixture[str], what: str
):
    damage, named = DAMAGE[what]
    world = [*overlay(broken), *(["--data.num_answers=3"] if what == "another vocabulary size" else [])]
    damage(broken)
    assert cdvqa("fit", "stage1_bce.yaml", world=world) == 2
    error = last_error(capsys)
    assert error.startswith("cdvqa fit: ") and named in error, error
    assert not list(Path().glob("logs/**/*.*"))


@pytest.mark.parametrize(
    ("field", "flags"),
    [
        (
            "its backbone is not this run's: hidden_size is 16 there and 32 here",
            ["--model.backbone.config.hidden_size=32"],
        ),
        ("its text_format is not this run's: 'standard' there and 'authors' here", ["--model.text_format=authors"]),
        ("its backbone is not this run's: answers is", ["--data.min_count=30", "--data.num_answers=0"]),
        ("its tokenizer is not this run's", ["--data.tokenizer=other/vocab.txt"]),
    ],
)
def test_a_stage_1_run_that_does_not_match_is_refused(
    cdvqa: Command, scenes: Path, capsys: pytest.CaptureFixture[str], field: str, flags: list[str]
):
    assert cdvqa("fit", "stage1_bce.yaml") == 0
    Path("other").mkdir()
    (Path("other") / "vocab.txt").write_text((scenes / "vocab.txt").read_text() + "more\n")
    if "--data.num_answers=0" in flags:
        flags = [flags[0], f"--data.num_answers={answers(scenes, 30)}"]
    assert cdvqa("fit", "stage2_bce.yaml", *flags) == 2
    error = last_error(capsys)
    assert "/seed0/model.safetensors: " in error and field in error, error
    assert run_names() == {"stage1_bce"}


def answers(world: Path, min_count: int) -> int:
    from cdvqa.data.answers.vocabulary import AnswerVocabulary
    from cdvqa.data.questions.official import read_questions

    annotations = read_questions(world / QUESTIONS, world / ANNOTATIONS).annotations
    return len(AnswerVocabulary.from_annotations(annotations, min_count))


def test_an_error_in_a_loader_process_is_one_line_too(cdvqa: Command, broken: Path, capsys: pytest.CaptureFixture[str]):
    world = [*overlay(broken), "--data.num_workers=1"]
    put_nan(broken)
    assert cdvqa("fit", "stage1_bce.yaml", world=world) == 2
    error = last_error(capsys)
    assert error.startswith("cdvqa fit: ") and "features.h5" in error and "NaN" in error and "Traceback" not in error


def test_stage_3_needs_masks(cdvqa: Command, capsys: pytest.CaptureFixture[str]):
    assert cdvqa("fit", "stage1_bce.yaml") == 0
    source = the_run("stage1_bce")
    assert cdvqa("fit", "stage3_bce.yaml", f"--model.init_from={source}") == 2
    assert "this network has no masks; stage 3 starts from a stage-2 run" in capsys.readouterr().err


def test_a_missing_start_is_named(cdvqa: Command, capsys: pytest.CaptureFixture[str]):
    assert cdvqa("fit", "stage2_bce.yaml", "--model.init_from=nowhere") == 2
    assert "nowhere: no such run folder or network file (--model.init_from)" in capsys.readouterr().err
