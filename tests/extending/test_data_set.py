"""A data set outside the package goes through `fit`, `test` and `predict`, and its results know what is OOD."""

import json
import shutil
from pathlib import Path

import pytest

from cdvqa.cli import main
from tests.conftest import CONF

CONFIGS = [
    part for path in (CONF / "tiny.yaml", Path(__file__).with_name("data_set.yaml")) for part in ("--config", path)
]
PARTS = {"train": "train", "day": "id", "evening": "test", "night": "test"}


@pytest.fixture
def survey(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The small world `scenes` in the files of the data set; its OOD questions are shared out to two sets."""
    root = tmp_path / "data" / "survey"
    root.mkdir(parents=True)
    for name in ("features.h5", "vocab.txt"):
        shutil.copy(scenes / name, root / name)
    for name, part in PARTS.items():
        questions, annotations = (
            json.loads((scenes / f"vqacp_v2_{part}_{kind}.json").read_text()) for kind in ("questions", "annotations")
        )
        text = {question["question_id"]: question["question"] for question in questions}
        items = [
            {
                "id": a["question_id"],
                "photo": a["image_id"],
                "text": text[a["question_id"]],
                "topic": a["question_type"],
                "answers": "|".join(answer["answer"] for answer in a["answers"]),
            }
            for a in annotations
        ]
        half = {"evening": slice(0, 30), "night": slice(30, None)}.get(name, slice(None))
        (root / f"survey_{name}.json").write_text(json.dumps({"items": items[half]}))
    monkeypatch.chdir(tmp_path)
    return root


def cdvqa(command: str, *flags: str) -> int:
    return main([command, "--config", "stage1_lmh.yaml", *map(str, CONFIGS), "--trainer.max_epochs=1", *flags])


def test_fit_and_test(survey: Path) -> None:
    assert cdvqa("fit") == 0
    assert cdvqa("test") == 0
    (path,) = Path("logs/survey/lxmert").glob("*/seed0/results.json")
    results = json.loads(path.read_text())
    assert {name: (split["distribution"], split["n"]["all"]) for name, split in results["splits"].items()} == {
        "day": ("id", 90),
        "evening": ("ood", 30),
        "night": ("ood", 40),
    }
    assert set(results["splits"]["night"]["n"]) <= {"all", "yes/no", "other"}  # its own answer types
    both = [round(results["splits"][name]["all"], 2) for name in ("evening", "night")]
    assert results["means"] == {"ood_mean": pytest.approx(sum(both) / 2)}
    assert cdvqa("predict") == 0
    predictions = json.loads((path.parent / "predictions" / "night.json").read_text())
    assert len(predictions) == 40


def test_a_wrong_record_and_the_source_are_named(survey: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = json.loads((survey / "survey_train.json").read_text())
    del content["items"][3]["topic"]
    (survey / "survey_train.json").write_text(json.dumps(content))
    (survey / "survey_night.json").unlink()
    assert cdvqa("fit") == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "survey_train.json: record 3 has no 'topic'" in error
    assert cdvqa("check") == 1
    printed = capsys.readouterr().out
    assert "night questions, night annotations: Survey: ask its authors" in printed
