"""The networks of a study go from export to a notebook on another machine, and answer alike all the way."""

import json
from pathlib import Path

import cdvqa as package
from cdvqa.cli import main
from tests.conftest import the_run

SHORT = ["--trainer.max_epochs=2", "--model.global_batch=32"]


def predicted(run: Path) -> dict[int, str]:
    rows = json.loads((run / "predictions" / "test.json").read_text())
    return {row["question_id"]: row["answer"] for row in rows}


def test_from_export_to_a_pushed_folder(cdvqa, scenes, tmp_path, capsys, monkeypatch):
    """The pipeline of `make demo`, then export, ask, serve, compare and push."""
    from starlette.testclient import TestClient

    from cdvqa.deploy.serve import Panel, application

    for command, config in (("fit", "stage1_lmh.yaml"), ("fit", "stage2_lmh.yaml"), ("test", "stage2_lmh.yaml")):
        assert cdvqa(command, config, *SHORT) == 0
    run, parent = the_run("stage2_lmh+lmh_mask_uniform_s50"), the_run("stage1_lmh")
    assert cdvqa("test", "stage1_lmh.yaml", *SHORT) == 0
    answers, before = (predicted(one) for one in (run, parent))
    record = json.loads((scenes / "vqacp_v2_test_questions.json").read_text())[0]
    question, image, answer = record["question"], record["image_id"], answers[record["question_id"]]

    assert main(["export", str(run), "--measure=false"]) == 0
    exported = run / "export" / "fp32" / "subnetwork.safetensors"
    capsys.readouterr()
    assert main(["ask", str(exported), f"--question={question}", f"--image_id={image}", f"--beside={parent}"]) == 0
    said = capsys.readouterr().out
    assert f"  answer: {answer} " in said and parent.parent.name in said

    client = TestClient(application(Panel([package.load(exported), package.load(parent)]), ["testserver"]))
    ours, theirs = client.post("/api/ask", json={"question": question, "image_id": image}).json()["replies"]
    assert ours["answers"][0]["text"] == answer
    assert theirs["answers"][0]["text"] == package.load(parent).ask(question, image_id=image).answers[0].text

    assert main(["compare", str(run), str(parent), f"--json={tmp_path / 'compared.json'}"]) == 0
    compared = json.loads((tmp_path / "compared.json").read_text())
    rows = {row["test set"]: row for row in compared["answers"]["rows"]}
    equal = sum(answers[number] == before[number] for number in answers) / len(answers)
    assert rows["test"]["equal answers"] == equal and rows["test"]["questions"] == 70

    assert main(["push", str(run), f"--to={tmp_path / 'pushed'}"]) == 0
    regions, boxes, mask = package.load(run).data.visual.read([image])
    kept = slice(None) if mask is None else mask[0]
    Path("logs").rename("gone")
    monkeypatch.chdir(tmp_path / "pushed")
    reply = package.load(".").ask(question, features=regions[0][kept], boxes=boxes[0][kept])
    assert reply.answers[0].text == answer and reply.prior
