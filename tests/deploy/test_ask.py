"""`cdvqa ask` and `cdvqa.load`: single questions, answered as a test answers them."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import cdvqa as package
from cdvqa.cli import main
from cdvqa.deploy.network import question_type
from cdvqa.errors import InputError
from cdvqa.sparsity import Subnetwork
from tests.conftest import the_run

SHORT = ["--model.objective=bce", "--trainer.max_epochs=1"]


@pytest.fixture
def runs(cdvqa):
    """Finished runs of stage 1 and stage 2, the second with its answers to the test questions."""
    assert cdvqa("fit", "stage1_bce.yaml", *SHORT) == 0
    assert cdvqa("fit", "stage2_bce.yaml", *SHORT) == 0
    assert cdvqa("test", "stage2_bce.yaml", *SHORT) == 0
    return the_run("stage1_bce"), the_run("stage2_bce+bce_mask_uniform_s50")


def test_an_answer_is_that_of_the_test(runs, scenes):
    network = package.load(runs[1])
    expected = {
        row["question_id"]: row["answer"] for row in json.loads((runs[1] / "predictions/test.json").read_text())
    }
    records = json.loads((scenes / "vqacp_v2_test_questions.json").read_text())
    annotations = json.loads((scenes / "vqacp_v2_test_annotations.json").read_text())
    types = {record["question_id"]: record["question_type"] for record in annotations}
    assert len(records) == 70
    for record in records:
        reply = network.ask(record["question"], image_id=record["image_id"], top=3)
        assert reply.answers[0].text == expected[record["question_id"]]
        shares = [answer.share for answer in reply.answers]
        assert len(shares) == 3 and shares == sorted(shares, reverse=True) and 0 < sum(shares) <= 1
        assert reply.question_type == types[record["question_id"]]
        row = network.prior.row(reply.question_type)
        assert reply.prior[0].share == pytest.approx(row.max()) and reply.milliseconds > 0
    regions, boxes, mask = network.data.visual.read([records[0]["image_id"]])
    kept = slice(None) if mask is None else mask[0]
    given = network.ask(records[0]["question"], features=regions[0][kept], boxes=torch.from_numpy(boxes[0][kept]))
    assert given.answers[0].text == expected[records[0]["question_id"]]
    assert network.ask("XYZZY", image_id=records[0]["image_id"]).question_type == ""


def test_the_command_shows_two_networks(runs, scenes, capsys):
    record = json.loads((scenes / "vqacp_v2_test_questions.json").read_text())[0]
    ask = ["ask", str(runs[1]), f"--question={record['question']}", f"--image_id={record['image_id']}"]
    assert main([*ask, f"--beside={runs[0]}", "--top=2"]) == 0
    said = capsys.readouterr().out
    for run in runs:
        assert f"{run.parent.name}/seed0\n  answer: " in said
        reply = package.load(run).ask(record["question"], image_id=record["image_id"], top=2)
        assert f"answer: {reply.answers[0].text} {reply.answers[0].share:.1%}, {reply.answers[1].text} " in said
    answers = [
        package.load(run).ask(record["question"], image_id=record["image_id"]).answers[0].text for run in runs[::-1]
    ]
    differ = f"They differ: {', '.join(answers)}." if answers[0] != answers[1] else "They give the same answer."
    assert differ in said
    assert said.count(f"prior of {reply.question_type!r}") == 2 and said.count(" ms\n") + said.endswith(" ms\n") >= 2


def test_a_runtime_that_is_chosen_answers_alike(runs, scenes, capsys, monkeypatch):
    """Also that of `predict`; without the compiler, which takes a minute."""

    def no_compiler(*_):
        raise InputError("no compiler")

    monkeypatch.setattr("cdvqa.inference.runtimes.compiled_runtime", no_compiler)
    run = runs[1]
    before = json.loads((run / "predictions" / "test.json").read_text())
    record = json.loads((scenes / "vqacp_v2_test_questions.json").read_text())[0]
    ask = ["ask", str(run), f"--question={record['question']}", f"--image_id={record['image_id']}"]
    assert main([*ask, "--runtime=auto"]) == 0
    said = capsys.readouterr().out
    assert f"answer: {before[0]['answer']} " in said and "is fastest here for 1 questions (ms: torch " in said
    assert main([*ask, "--runtime=auto", "--dtype=int8"]) == 0
    assert "onnxruntime int8, as --dtype asks" in capsys.readouterr().out
    predict = ["predict", "--config", str(run / "config.yaml"), "--trainer.accelerator=cpu"]
    assert main([*predict, "--runtime=auto"]) == 0
    assert json.loads((run / "predictions" / "test.json").read_text()) == before
    for command in (ask, predict):
        assert main([*command, "--dtype=int8"]) == 2
        assert "--dtype int8 needs --runtime auto" in capsys.readouterr().err


def test_a_network_that_sees_pixels_takes_a_picture(cdvqa, tmp_path, capsys):
    assert cdvqa("fit", "stage1_ce.yaml", "mplug.yaml", "--trainer.max_epochs=1") == 0
    run = the_run("stage1_ce", runs="logs/scenes/mplug")
    picture = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)).save(picture)
    assert main(["ask", str(run), "--question=what is this?", f"--image={picture}"]) == 0
    assert "answer: " in capsys.readouterr().out
    network = package.load(run)
    of_file, opened = (network.ask("what is this?", image=image) for image in (picture, Image.open(picture)))
    assert of_file.answers == opened.answers
    with pytest.raises(InputError, match="mplug sees the image itself; give a picture"):
        network.ask("what is this?", features=np.zeros((3, 8)))


def test_what_cannot_be_asked_is_refused(runs, capsys, tmp_path):
    run = str(runs[0])
    for options, said in (
        (["--question= ", "--image_id=1"], "the question is empty"),
        (["--question=what?"], "give one of --image FILE and --image_id N"),
        (["--question=what?", "--image_id=123456789"], "image 123456789 (question 0) is not in the feature file"),
        (["--question=what?", f"--image={tmp_path / 'no.png'}"], "sees region features of another program"),
        (["--question=what?", "--image_id=1", f"--features={tmp_path / 'no.h5'}"], f"{tmp_path / 'no.h5'}"),
    ):
        assert main(["ask", run, *options]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert said in line
    network = package.load(runs[0])
    with pytest.raises(InputError, match=r"region features are \[3, 5\]; .* takes \(R, "):
        network.ask("what?", features=np.zeros((3, 5)))
    with pytest.raises(InputError, match=r"no such run folder or network file"):
        package.load(tmp_path / "nothing")
    nameless = Subnetwork.load(runs[1] / "subnetwork.safetensors")
    nameless.metadata.pop("answers")
    nameless.save(runs[1] / "subnetwork.safetensors")
    with pytest.raises(InputError, match=r"does not say its answers, so it cannot answer"):
        package.load(runs[1])
    (runs[1] / "config.yaml").write_text((runs[0] / "config.yaml").read_text().replace("l_layers: 1", "l_layers: 2"))
    nameless.metadata["answers"] = network.metadata["answers"]
    nameless.save(runs[1] / "subnetwork.safetensors")
    with pytest.raises(InputError, match=r"holds no lxmert\.encoder\.layer\.1.*; it seems to be of another model"):
        package.load(runs[1])
    bare = tmp_path / "bare.safetensors"
    bare.write_bytes((runs[0] / "model.safetensors").read_bytes())
    with pytest.raises(InputError, match=r"no config\.yaml of its run beside it"):
        package.load(bare)
    record = json.loads((runs[0] / "run.json").read_text())
    (runs[0] / "run.json").write_text(json.dumps(record | {"finished": None}))
    with pytest.raises(InputError, match="this run is not finished"):
        package.load(runs[0])


def test_a_question_type_is_the_longest_that_the_question_begins_with():
    known = ["what", "what is", "what is the", "is the"]
    assert question_type("What is  the time?", known) == "what is the"
    assert question_type("what is theirs?", known) == "what is"
    assert question_type("whatever", known) == "" and question_type("what", known) == "what"
