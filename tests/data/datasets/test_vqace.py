"""VQA-CE in its published files: VQA v2's, and two lists of question ids."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from cdvqa.cli import main
from cdvqa.data.datasets import make_data_set
from cdvqa.errors import InputError
from cdvqa.metrics import vqa_accuracy
from cdvqa.studies.report.table import accuracies
from tests.conftest import overlay
from tests.data.toy import dump

QUESTIONS, ANNOTATIONS = "v2_OpenEnded_mscoco_{}2014_questions.json", "v2_mscoco_{}2014_annotations.json"
IDS = np.arange(100, 120)


@pytest.fixture
def root(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The small world `scenes` in VQA-CE's files: 70 questions of val, 20 of them counterexamples and 10 hard."""
    root = tmp_path / "vqace"
    root.mkdir()
    for name in ("features.h5", "vocab.txt"):
        shutil.copy(scenes / name, root / name)
    for name, part in (("train", "train"), ("val", "test")):
        for file, kind in ((QUESTIONS, "questions"), (ANNOTATIONS, "annotations")):
            content = {"info": {}, kind: json.loads((scenes / f"vqacp_v2_{part}_{kind}.json").read_text())}
            dump(root / file.format(name), content)
    ids = [record["question_id"] for record in gold(root)]
    dump(root / "counterexamples.json", ids[:40:2])
    dump(root / "hard.json", ids[41:51])
    monkeypatch.chdir(tmp_path)
    return root


def gold(root: Path) -> list[dict]:
    return json.loads((root / ANNOTATIONS.format("val")).read_text())["annotations"]


def cdvqa(command: str, root: Path) -> int:
    world = overlay(root, "vqace", (QUESTIONS.format("train"), ANNOTATIONS.format("train")))
    return main([command, "--config", "stage1_lmh.yaml", "--config", "vqace.yaml", *world, "--trainer.max_epochs=1"])


def test_fit_and_test(root: Path, capsys: pytest.CaptureFixture[str]):
    assert cdvqa("check", root) == 0
    printed = capsys.readouterr().out
    assert "ok    counterexamples questions: 20 questions\n" in printed
    assert "ok    hard questions: 10 questions\n" in printed
    assert cdvqa("fit", root) == 0 and cdvqa("test", root) == 0
    (path,) = Path("logs/vqace/lxmert").glob("*/seed0/results.json")
    splits = json.loads(path.read_text())["splits"]
    assert {name: (split["distribution"], split["n"]["all"]) for name, split in splits.items()} == {
        "all": ("mixed", 70),
        "counterexamples": ("ood", 20),
        "easy": ("id", 40),
    }

    said, annotations = json.loads((path.parent / "predictions/all.json").read_text()), gold(root)
    parts = {"all": annotations, "counterexamples": annotations[:40:2]}
    parts["easy"] = [*annotations[1:41:2], *annotations[40:41], *annotations[51:]]
    assert len(parts["easy"]) == 40
    for name, part in parts.items():
        ids = {record["question_id"] for record in part}
        wanted = vqa_accuracy([record for record in said if record["question_id"] in ids], part)["all"]
        assert splits[name]["all"] == pytest.approx(wanted), name
    report = accuracies(json.loads(path.read_text()))
    assert [report[kind] for kind in ("id", "ood")] == [splits[name]["all"] for name in ("easy", "counterexamples")]


def test_a_list_that_does_not_fit_stops_the_test(root: Path, capsys: pytest.CaptureFixture[str]):
    assert cdvqa("fit", root) == 0
    dump(root / "hard.json", [7])
    assert cdvqa("test", root) == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("cdvqa test: ")]
    assert error == f"cdvqa test: {root}/hard.json: question 7 is not in all (1 such questions)"
    (root / "hard.json").unlink()
    assert cdvqa("test", root) == 2
    assert f"cdvqa test: {root}/hard.json: no such file, plain, .gz, .zip" in capsys.readouterr().err
    assert cdvqa("check", root) == 1
    assert "hard questions: VQA v2's files: the download page" in capsys.readouterr().out


def test_easy_is_what_neither_list_has(tmp_path: Path):
    dump(tmp_path / "counterexamples.json", [100, 119])
    dump(tmp_path / "hard.json", [101])
    subsets = make_data_set("vqace").read_subsets(tmp_path, "all", IDS)
    assert subsets == {"counterexamples": {100, 119}, "easy": set(range(102, 119))}


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ([100, 101, 100], "duplicate question 100"),
        ([100, "101"], r"record 1 \(question 101\): 'question_id' must be an integer"),
        ([100, {"question_id": 101}], r"record 1 .*'question_id' must be an integer"),
        ([100, 2**70], "a 'question_id' does not fit into 64 bits"),
        ([], "holds no question ids"),
        ({"easy": [100]}, "holds neither a list of question ids"),
        ([100, 99], r"question 99 is not in all \(1 such questions\)"),
    ],
)
def test_broken_lists(tmp_path: Path, content: object, error: str):
    (tmp_path / "counterexamples.json").write_text(json.dumps(content))
    dump(tmp_path / "hard.json", [101])
    with pytest.raises(InputError, match=rf"counterexamples\.json: {error}") as raised:
        make_data_set("vqace").read_subsets(tmp_path, "all", IDS)
    assert "\n" not in str(raised.value)


def test_no_question_is_in_both_lists(tmp_path: Path):
    """Defect: such a question was silently a counterexample."""
    dump(tmp_path / "counterexamples.json", [100, 101])
    dump(tmp_path / "hard.json", [101, 102])
    with pytest.raises(InputError, match=r": question 101 is both in counterexamples and in hard; fetch the lists"):
        make_data_set("vqace").read_subsets(tmp_path, "all", IDS)
