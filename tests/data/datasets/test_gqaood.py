"""GQA-OOD in GQA's own files: objects of questions by id, and image ids that are numbers or n and a number."""

import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from cdvqa.cli import main
from cdvqa.data.answers.targets import SoftTargets
from cdvqa.data.answers.vocabulary import AnswerVocabulary
from cdvqa.data.datasets import make_data_set
from cdvqa.data.visual.features import RegionFeatures
from cdvqa.errors import InputError
from cdvqa.metrics import official_vqa_score, vqa_score
from cdvqa.studies.report.table import accuracies
from tests.conftest import CONF
from tests.tools.features_tsv import Image, convert, lxmert, write_tsv

TRAIN = "train_balanced_questions.json"


def record(question: str, image: str, answer: str, detailed: str, structural: str) -> dict[str, Any]:
    """A question with all the fields that GQA's files have."""
    return {
        "semantic": [{"operation": "select", "dependencies": [], "argument": "wall (16)"}],
        "entailed": ["001171"],
        "equivalent": ["001172"],
        "question": question,
        "imageId": image,
        "isBalanced": True,
        "groups": {"global": None, "local": "10q-wall_color"},
        "answer": answer,
        "semanticStr": "select: wall (16)",
        "annotations": {"answer": {"0": "16"}, "question": {"2:4": "16"}, "fullAnswer": {}},
        "types": {"detailed": detailed, "semantic": "attr", "structural": structural},
        "fullAnswer": f"It is {answer}.",
    }


SHIRT = record("What is he wearing?", "n54424", "t-shirt", "relO", "query")
FENCE = record("Is the fence red?", "54424", "yes", "verifyAttr", "verify")


def write(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


# --- reading ------------------------------------------------------------------------------------------------------


def test_what_is_taken_of_a_question(tmp_path: Path):
    write(tmp_path / TRAIN, {"001172": SHIRT, "1172": FENCE, "201030415": FENCE})
    questions = make_data_set("gqaood").read(tmp_path, "train", "third")
    annotations = questions.annotations
    assert questions.question_id.tolist() == [1001172, 11172, 1201030415], "001172 and 1172 are two questions"
    assert questions.image_id.tolist() == [-54424, 54424, 54424], "n54424 and 54424 are two images"
    assert questions.text == ["What is he wearing?", "Is the fence red?", "Is the fence red?"]
    assert [annotations.question_type[row] for row in range(3)] == ["relO", "verifyAttr", "verifyAttr"]
    assert [annotations.answer_type[row] for row in range(3)] == ["open", "binary", "binary"]
    assert annotations.answers[0] == ["t shirt"] * 10 and annotations.answers[1] == ["yes"] * 10


@pytest.mark.parametrize("rule", ["third", "clark"])
def test_accuracy_is_exact_match(tmp_path: Path, rule):
    """Of ten equal answers, the one answer scores 1 and every other 0: as a target and under both accuracies."""
    write(tmp_path / TRAIN, {"001172": SHIRT, "1172": FENCE})
    annotations = make_data_set("gqaood").read(tmp_path, "train", rule).annotations
    vocabulary = AnswerVocabulary.from_annotations(annotations, min_count=1)
    assert vocabulary.answers == ["t shirt", "yes"]
    assert SoftTargets.from_annotations(annotations, vocabulary, rule).dense(np.arange(2)).tolist() == [[1, 0], [0, 1]]
    for score in (vqa_score, official_vqa_score):
        assert [score(said, annotations.answers[0]) for said in ("t shirt", "yes", "shirt")] == [1, 0, 0]


def test_the_ids_of_a_list_are_those_of_its_questions(tmp_path: Path):
    write(tmp_path / "ood_testdev_head.json", {"001172": SHIRT})
    write(tmp_path / "ood_testdev_tail.json", {"1172": FENCE, "201030415": FENCE})
    subsets = make_data_set("gqaood").read_subsets(tmp_path, "all", np.array([1001172, 11172, 1201030415]))
    assert subsets == {"head": {1001172}, "tail": {11172, 1201030415}}


def without(field: str) -> dict[str, Any]:
    return {name: value for name, value in SHIRT.items() if name != field}


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ({"1172": FENCE, "001172": without("answer")}, r"record 1 \(question 001172\) has no 'answer'"),
        ({"001172": without("imageId")}, r"record 0 \(question 001172\) has no 'imageId'"),
        ({"001172": SHIRT | {"imageId": 7}}, r"record 0 \(question 001172\): 'imageId' must be a string"),
        ({"001172": SHIRT | {"types": "relO"}}, r"record 0 \(question 001172\): 'types' must be an object"),
        ({"001172": SHIRT | {"types": {"detailed": "relO"}}}, r"record 0 \(question 001172\) has no 'structural'"),
        ({"001172": [SHIRT]}, "record 0 is not a JSON object"),
        ({"001172": SHIRT | {"imageId": "x161313"}}, r"'imageId' 'x161313' is neither a number nor n and a number"),
        ({"001172": SHIRT | {"imageId": "n0"}}, r"'imageId' 'n0' is neither a number nor n and a number"),
        ({"q1": SHIRT}, "question 'q1' must have an id of digits, at most 17"),
        ({"1" * 18: SHIRT}, "question '1{18}' must have an id of digits"),
        ([SHIRT], "holds no object of questions by id"),
        ({}, "holds no object of questions by id"),
    ],
)
def test_broken_files(tmp_path: Path, content: object, error: str):
    write(tmp_path / TRAIN, content)
    with pytest.raises(InputError, match=rf"{TRAIN}: .*{error}") as raised:
        make_data_set("gqaood").read(tmp_path, "train", "third")
    assert "\n" not in str(raised.value)


def test_a_duplicate_question(tmp_path: Path):
    """A JSON reader keeps the last of two entries of a name, without a warning."""
    first, second = (json.dumps({"001172": entry})[1:-1] for entry in (SHIRT, FENCE))
    (tmp_path / TRAIN).write_text(f"{{{first}, {second}}}")
    with pytest.raises(InputError, match=f"{TRAIN}: duplicate entry '001172'; remove one of the two"):
        make_data_set("gqaood").read(tmp_path, "train", "third")


# --- a run --------------------------------------------------------------------------------------------------------


def gqa_image(number: int) -> str:
    """Image ids in pairs that differ in the n alone."""
    return f"{'n' if number % 2 else ''}{number // 2 + 1}"


def gqa_questions(world: Path, part: str) -> dict[str, Any]:
    questions, annotations = (
        json.loads((world / f"vqacp_v2_{part}_{kind}.json").read_text()) for kind in ("questions", "annotations")
    )
    text = {question["question_id"]: question["question"] for question in questions}
    return {
        f"00{a['question_id']}": record(
            text[a["question_id"]],
            gqa_image(a["image_id"]),
            a["multiple_choice_answer"],
            a["question_type"],
            "query" if a["answer_type"] == "other" else "verify",
        )
        for a in annotations
    }


@pytest.fixture
def root(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The small world `scenes` in GQA-OOD's files, its features converted from LXMERT's TSV: 30 of head, 40 of tail."""
    root = tmp_path / "gqaood"
    root.mkdir()
    shutil.copy(scenes / "vocab.txt", root / "vocab.txt")
    for part, name in (("train", TRAIN), ("id", "ood_val_all.json"), ("test", "ood_testdev_all.json")):
        write(root / name, gqa_questions(scenes, part))
    tested = list(gqa_questions(scenes, "test").items())
    write(root / "ood_testdev_head.json", dict(tested[:30]))
    write(root / "ood_testdev_tail.json", dict(tested[30:]))
    with h5py.File(scenes / "features.h5") as file:
        columns = (file[name][:] for name in ("image_id", "size", "num_boxes", "boxes", "features"))
        images = [
            Image(gqa_image(int(number)), *map(int, size), boxes[:n].copy(), regions[:n].astype(np.float32))
            for number, size, n, boxes, regions in zip(*columns, strict=True)
        ]
    assert convert(write_tsv(tmp_path / "obj36.tsv", images, lxmert), root / "features.h5") == 0
    monkeypatch.chdir(tmp_path)
    return root


def cdvqa(command: str, root: Path, *flags: str) -> int:
    configs = ["stage1_lmh.yaml", "gqaood.yaml", str(CONF / "tiny.yaml")]
    answers = {entry["answer"] for entry in json.loads((root / TRAIN).read_text()).values()}
    data = [f"--data.root={root}", f"--data.num_answers={len(answers)}", "--trainer.max_epochs=1"]
    return main([command, *(part for config in configs for part in ("--config", config)), *data, *flags])


def test_images_that_differ_in_the_n_have_features_of_their_own(root: Path, scenes: Path):
    converted, original = RegionFeatures(root / "features.h5"), RegionFeatures(scenes / "features.h5")
    for number in original.image_id[:20].tolist():
        mine = (number // 2 + 1) * (-1 if number % 2 else 1)
        np.testing.assert_array_equal(converted.read([mine])[0], original.read([number])[0].astype(np.float16))


def test_fit_and_test(root: Path, capsys: pytest.CaptureFixture[str]):
    assert cdvqa("check", root) == 0
    printed = capsys.readouterr().out
    assert "ok    head questions: 30 questions\n" in printed and "ok    tail questions: 40 questions\n" in printed
    assert cdvqa("fit", root) == 0 and cdvqa("test", root) == 0
    (path,) = Path("logs/gqaood/lxmert").glob("*/seed0/results.json")
    results = json.loads(path.read_text())
    splits = results["splits"]
    assert {name: (split["distribution"], split["n"]["all"]) for name, split in splits.items()} == {
        "all": ("mixed", 70),
        "head": ("id", 30),
        "tail": ("ood", 40),
    }
    assert set(splits["all"]["n"]) == {"all", "open", "binary"} and results["means"] == {}

    said = json.loads((path.parent / "predictions/all.json").read_text())
    said = {str(answer["question_id"])[1:]: answer["answer"] for answer in said}  # with GQA's ids
    for name in splits:
        asked = json.loads((root / f"ood_testdev_{name}.json").read_text())
        right = [said[question] == entry["answer"] for question, entry in asked.items()]
        assert splits[name]["all"] == splits[name]["official"]["all"] == pytest.approx(100 * np.mean(right)), name
    report = accuracies(results)
    assert [report[kind] for kind in ("id", "ood")] == [splits[name]["all"] for name in ("head", "tail")]

    with h5py.File(root / "features.h5", "r+") as file:
        number = file["image_id"][:].min()
        file["image_id"][file["image_id"][:].argmin()] = -999_999
    assert cdvqa("check", root) == 1
    assert f"image {number} (question 100" in capsys.readouterr().out


def test_wrong_files_stop_the_run(root: Path, capsys: pytest.CaptureFixture[str]):
    def error(command: str) -> str:
        assert cdvqa(command, root) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith(f"cdvqa {command}: ")]
        return line.removeprefix(f"cdvqa {command}: ")

    train = json.loads((root / TRAIN).read_text())
    write(root / TRAIN, train | {"9": without("question")})
    assert error("fit") == f"{root / TRAIN}: record 400 (question 9) has no 'question'"
    write(root / TRAIN, train)
    assert cdvqa("fit", root) == 0
    tail = root / "ood_testdev_tail.json"
    write(tail, json.loads(tail.read_text()) | {"007": SHIRT})
    assert error("test") == f"{tail}: question 1007 is not in all (1 such questions)"
    write(tail, json.loads((root / "ood_testdev_head.json").read_text()))
    assert "is both in head and in tail; fetch the lists again" in error("test")
    tail.unlink()
    assert error("test").startswith(f"{tail}: no such file")
