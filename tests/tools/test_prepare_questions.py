"""`cdvqa prepare questions` reads what is there, in any form, and keeps what `fit` takes."""

import hashlib
import re
import shutil
import zipfile
from pathlib import Path

import orjson
import pytest

from cdvqa.cli import main
from cdvqa.data import prepared
from cdvqa.data.questions import archives
from cdvqa.data.questions import official as questions
from tests.conftest import last_error, overlay
from tests.data.answers.test_cached_targets import replace_annotations
from tests.data.toy import dump, split, write_toy


@pytest.fixture
def prepare(tmp_path, monkeypatch, capsys):
    """Run the command on a root; return its status, lines and errors."""
    monkeypatch.chdir(tmp_path)

    def run(root, *flags, layout="vqacp"):
        settings = {"root": root, "name": "toy", "layout": layout, "num_answers": 6, "min_count": 2}
        options = [f"--data.{key}={value}" for key, value in settings.items()]
        status = main(["prepare", "questions", "--config", "stage1_lmh.yaml", *options, *flags])
        printed = capsys.readouterr()
        return status, printed.out.splitlines(), printed.err.strip()

    return run


def without_time(lines):
    return [re.sub(r"[0-9.]+ s$", "", line) for line in lines]


def test_a_line_per_split_and_the_folder(prepare, tmp_path):
    root = write_toy(tmp_path / "data", id_test=5)
    (root / "features.h5").unlink()
    status, lines, _ = prepare(root)
    assert status == 0 and len(lines) == 5
    read = {}
    for name in ("train", "id", "test"):
        pair = [root / f"vqacp_v2_{name}_{kind}.json" for kind in ("questions", "annotations")]
        read[name] = f"{sum(path.stat().st_size for path in pair) / 1000:.1f} kB"
    assert re.fullmatch(
        r"train: 57 questions on \d+ images, 3 question types, \d+\.\d\d% with an answer in the vocabulary, "
        rf"20 word pieces each, from {read['train']}, \d+\.\d s",
        lines[0],
    )
    assert lines[1].startswith("dev: 3 questions on 3 images") and ", held out of train, " in lines[1]
    assert lines[2].startswith("id: 5 questions on 5 images") and lines[3].startswith("test: 23 questions on 12 images")
    size = sum(path.stat().st_size for path in (root / ".cdvqa").iterdir())
    assert lines[4] == f"{root}/.cdvqa: 6 answers, priors of 3 question types, {size / 1000:.1f} kB"
    assert not (tmp_path / "logs").exists()


def test_again_nothing_is_read_and_the_lines_are_the_same(prepare, tmp_path, monkeypatch):
    root = write_toy(tmp_path / "data")
    first = prepare(root)[1]
    monkeypatch.setattr(questions, "read_records", lambda *args: pytest.fail("it was read again"))
    monkeypatch.setattr(prepared, "word_pieces", lambda *args: pytest.fail("it was tokenised again"))
    assert without_time(prepare(root)[1]) == without_time(first)


def test_fit_finds_everything_kept(cdvqa, scenes, monkeypatch):
    flags = overlay(scenes)
    assert main(["prepare", "questions", "--config", "stage1_bce.yaml", *flags]) == 0
    monkeypatch.setattr(questions, "read_records", lambda *args: pytest.fail("it was read again"))
    monkeypatch.setattr(prepared, "word_pieces", lambda *args: pytest.fail("it was tokenised again"))
    assert cdvqa("fit", "stage1_bce.yaml", "--trainer.max_steps=1", world=flags) == 0


def zip_up(root, folder, *kinds):
    """Pack the JSON files of each kind, as the official downloads are, and remove them."""
    for kind in kinds:
        with zipfile.ZipFile(root / f"v2_{kind}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(root.glob(f"*_{kind}.json")):
                archive.write(path, f"{folder}{path.name}")
                path.unlink()


@pytest.mark.parametrize("folder", ["", "vqacp/"])
def test_zipped_downloads(prepare, tmp_path, folder):
    plain, packed = write_toy(tmp_path / "plain", id_test=4), write_toy(tmp_path / "packed", id_test=4)
    zip_up(packed, folder, "questions", "annotations")
    assert not list(packed.glob("*.json"))
    status, lines, _ = prepare(packed)
    expected = prepare(plain)[1]
    assert status == 0 and without_time(lines[:-1]) == without_time(expected[:-1])
    for name in ("vocabulary.json", "prior-third.json", "train.npz"):
        assert (packed / ".cdvqa" / name).read_bytes() == (plain / ".cdvqa" / name).read_bytes()


def test_a_wrong_record_in_an_archive_is_named_with_it(prepare, tmp_path):
    root = write_toy(tmp_path / "data")
    path = root / "vqacp_v2_train_annotations.json"
    records = orjson.loads(path.read_bytes())
    records[7]["answers"] = records[7]["answers"][:1]
    dump(path, records)
    zip_up(root, "", "annotations")
    status, lines, error = prepare(root)
    assert status == 2 and not lines
    assert error.splitlines()[-1] == (
        f"cdvqa prepare: {root}/v2_annotations.zip/vqacp_v2_train_annotations.json: record 7 (question 1007) has 1 "
        "answers, and VQA accuracy is defined over ten; repeat a single answer ten times (1 such questions)"
    )
    assert not (root / ".cdvqa").exists()


def test_a_split_that_is_not_there_is_left_out_but_not_train(prepare, tmp_path):
    root = write_toy(tmp_path / "data")
    (root / "vqacp_v2_test_questions.json").unlink()
    status, lines, _ = prepare(root)
    assert status == 0 and lines[2] == "test: left out: vqacp_v2_test_questions.json is not there"
    (root / "vqacp_v2_train_questions.json").unlink()
    status, _, error = prepare(root)
    assert status == 2 and "vqacp_v2_train_questions.json: no such file, plain, .gz, .zip or in a zip archive" in error


@pytest.mark.parametrize("layout", ["vqavs", "vqa2"])
def test_other_layouts_with_lists_and_objects(prepare, tmp_path, layout):
    root = write_toy(tmp_path / "data")
    names = {
        "vqavs": ("{0}/{0}-Ques.json", "{0}/{0}-Ans.json", ("Training", "Val", "IID-Test")),
        "vqa2": (
            "v2_OpenEnded_mscoco_{}_questions.json",
            "v2_mscoco_{}_annotations.json",
            ("train2014", "val2014"),
        ),
    }[layout]
    for number, part in enumerate(names[2]):
        asked, answered = split(30 + number, 100 * number)
        wrap = layout == "vqa2"
        dump(root / names[0].format(part), {"questions": asked} if wrap else asked)
        dump(root / names[1].format(part), {"annotations": answered} if wrap else answered)
    status, lines, _ = prepare(root, layout=layout)
    assert status == 0
    counts = [re.match(r"(\w+): (\d+) questions", line).groups() for line in lines[:-1]]
    held_out = [("train", "28"), ("dev", "2"), ("test", "31")]
    assert counts == ([("train", "30"), ("dev", "31"), ("iid", "32")] if layout == "vqavs" else held_out)


def test_extra_text_is_tokenised_behind_the_questions_and_kept_apart(prepare, tmp_path):
    """The option was ignored, and word pieces with and without it shared a file."""
    root = write_toy(tmp_path / "data")
    dump(tmp_path / "extra.json", [{"question_id": 1000, "ocr": ["stop"]}])
    for flags, pieces in ((["--data.extra_text", str(tmp_path / "extra.json")], 80), ([], 20)):
        status, lines, _ = prepare(root, *flags)
        assert status == 0 and f", {pieces} word pieces each" in lines[0]
    digest = hashlib.sha256((tmp_path / "extra.json").read_bytes()).hexdigest()
    kept = {path.name for path in (root / ".cdvqa").glob("train-standard*")}
    assert kept == {"train-standard.npz", f"train-standard-{digest[:8]}.npz"}


def test_another_number_of_answers_is_told(prepare, tmp_path):
    status, lines, _ = prepare(write_toy(tmp_path / "data"), "--data.num_answers=7")
    assert status == 0 and lines[-1] == "data.num_answers is 7: set --data.num_answers 6"


def test_cached_targets(prepare, tmp_path):
    root = write_toy(tmp_path / "data")
    answers = replace_annotations(root)
    with pytest.warns(UserWarning, match=r"train_annotations\.json is not there; cache/train_target\.pkl and"):
        status, lines, _ = prepare(root, f"--data.num_answers={len(answers)}")
    assert status == 0 and lines[0].startswith("train: 57 questions")
    assert f"{len(answers)} answers, priors of 3 question types" in lines[-1]
    with pytest.warns(UserWarning, match="official accuracy is a lower bound"):
        status, _, error = prepare(root, "--model.soft_score=clark")
    assert status == 2 and "which soft score 'clark' does not give; try --model.soft_score third" in error


def test_fit_and_test_with_cached_targets(cdvqa, scenes, tmp_path):
    root = shutil.copytree(scenes, tmp_path / "cached", ignore=shutil.ignore_patterns("images", ".cdvqa"))
    flags = overlay(root)
    flags.append(f"--data.num_answers={len(replace_annotations(root))}")
    with pytest.warns(UserWarning, match=r"train_annotations\.json is not there"):
        assert cdvqa("fit", "stage1_bce.yaml", world=flags) == 0
    assert cdvqa("test", "stage1_bce.yaml", world=flags) == 0
    results = orjson.loads(next(Path("logs").rglob("results.json")).read_bytes())["splits"]["test"]
    assert results["n"]["all"] == 70 and results["official"]["all"] <= 100


def test_an_objective_that_needs_question_types_is_refused_without_them(cdvqa, scenes, tmp_path, capsys):
    root = shutil.copytree(scenes, tmp_path / "cached", ignore=shutil.ignore_patterns("images", ".cdvqa"))
    flags = overlay(root)
    flags.append(f"--data.num_answers={len(replace_annotations(root, typed=False))}")
    with pytest.warns(UserWarning, match=r"train_annotations\.json is not there"):
        assert cdvqa("fit", "stage1_lmh.yaml", world=flags) == 2
    error = last_error(capsys)
    assert error.startswith("cdvqa fit: ") and "question types" in error and "lmh" in error


def test_the_real_archive_as_all_splits(prepare, tmp_path, shared):
    root = tmp_path / "vqavs"
    root.mkdir()
    with zipfile.ZipFile(shared / "data/vqavs_val.zip") as archive, zipfile.ZipFile(root / "x.zip", "w") as mine:
        for part in ("Training", "Val"):
            for kind in ("Ques", "Ans"):
                mine.writestr(f"{part}/{part}-{kind}.json", archive.read(f"Val/Val-{kind}.json"))
    (root / "vocab.txt").write_bytes((shared / "data/bert_base_uncased_vocab.txt").read_bytes())
    status, lines, _ = prepare(root, "--data.min_count=9", "--data.num_answers=327", layout="vqavs")
    assert status == 0 and len(lines) == 4
    for line, name in zip(lines[:2], ("train", "dev"), strict=True):
        assert line.startswith(f"{name}: 32,723 questions on 27,265 images, 65 question types, ")
    assert lines[2] == "iid: left out: IID-Test/IID-Test-Ques.json is not there"
    assert "327 answers, priors of 65 question types" in lines[3]
    assert archives.find_file(root, "Val/Val-Ques.json") is not None and not (root / "Val").exists()
