"""The networks of a study go from export to a notebook on another machine, and answer alike all the way."""

import json
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

import cdvqa as package
from cdvqa.cli import main
from tests.conftest import the_run

SHORT = ["--trainer.max_epochs=2", "--model.global_batch=32"]
ROOT = Path(__file__).parents[2]


class Runs(NamedTuple):
    """Two tested runs, the second the first one's parent, and the folder of their world."""

    subnetwork: Path
    full: Path
    world: Path


@pytest.fixture
def trained(cdvqa, scenes: Path) -> Runs:
    """The pipeline of `make demo` with a tiny model."""
    for config in ("stage1_lmh.yaml", "stage2_lmh.yaml"):
        assert cdvqa("fit", config, *SHORT) == cdvqa("test", config, *SHORT) == 0
    return Runs(the_run("stage2_lmh+lmh_mask_uniform_s50"), the_run("stage1_lmh"), scenes)


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    """Copies of the runs of `make demo` itself, where it was given in this checkout."""
    monkeypatch.chdir(ROOT)  # their data are named from here
    names = ("stage2_bce+lmh_mask_uniform_s50", "stage1_bce")
    found = [run for name in names for run in Path("logs/scenes/lxmert").glob(f"{name}-*/seed0")]
    if len(found) != len(names):
        pytest.skip("logs/ does not hold each of the runs of `make demo` once")
    for run in found:
        shutil.copytree(run, tmp_path / run)
    return Runs(tmp_path / found[0], tmp_path / found[1], ROOT / "data" / "scenes")


def predicted(run: Path) -> dict[int, str]:
    rows = json.loads((run / "predictions" / "test.json").read_text())
    return {row["question_id"]: row["answer"] for row in rows}


@pytest.mark.parametrize("made", ["trained", "demo"])
def test_from_export_to_a_pushed_folder(
    made: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    from starlette.testclient import TestClient

    from cdvqa.deploy.serve import Panel, application

    run, parent, world = request.getfixturevalue(made)
    answers, before = (predicted(one) for one in (run, parent))
    record = json.loads((world / "vqacp_v2_test_questions.json").read_text())[0]
    question, image, answer = record["question"], record["image_id"], answers[record["question_id"]]

    exported = run / "export" / "fp32" / "subnetwork.safetensors"
    assert main(["export", str(run), "--measure=false"]) == 0
    capsys.readouterr()
    assert main(["ask", str(exported), f"--question={question}", f"--image_id={image}", f"--beside={parent}"]) == 0
    output = capsys.readouterr().out
    assert f"  answer: {answer} " in output and parent.parent.name in output

    client = TestClient(application(Panel([package.load(exported), package.load(parent)]), ["testserver"]))
    ours, theirs = client.post("/api/ask", json={"question": question, "image_id": image}).json()["replies"]
    assert ours["answers"][0]["text"] == answer
    assert theirs["answers"][0]["text"] == package.load(parent).ask(question, image_id=image).answers[0].text

    assert main(["compare", str(run), str(parent), f"--json={tmp_path / 'compared.json'}"]) == 0
    compared = json.loads((tmp_path / "compared.json").read_text())
    rows = {row["test set"]: row for row in compared["answers"]["rows"]}
    equal = sum(answers[number] == before[number] for number in answers) / len(answers)
    assert rows["test"]["equal answers"] == equal and rows["test"]["questions"] == len(answers)

    assert main(["push", str(run), f"--to={tmp_path / 'pushed'}"]) == 0
    regions, boxes, mask = package.load(run).data.visual.read([image])
    kept = slice(None) if mask is None else mask[0]
    run.parents[3].rename(run.parents[3].with_name("gone"))  # the answers come from the pushed folder alone
    monkeypatch.chdir(tmp_path / "pushed")
    reply = package.load(".").ask(question, features=regions[0][kept], boxes=boxes[0][kept])
    assert reply.answers[0].text == answer and reply.prior
