"""`cdvqa check` tells what is missing, what is spoilt and what does not fit together, and fetches nothing."""

import hashlib
import io
import json
import shutil
from collections import Counter

import pytest
from rich.console import Console

from cdvqa.cli import main
from cdvqa.tools.check import Item, Report, show
from tests.tools.check.table import row


def test_all_present(check, world):
    status, output = check()
    assert status == 0 and output.endswith("everything is there and fits together\n")
    assert "missing or unusable" not in output and "WRONG" not in output
    path, size = world / "vqacp_v2_train_questions.json", (world / "vqacp_v2_train_questions.json").stat().st_size
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert row(output, "train questions")[1:] == ["ok", f"{size / 1000:.1f} kB", digest[:12], str(path)]
    assert "ok    train questions: 60 questions on 12 images\n" in output
    assert "ok    test questions: 23 questions on 12 images\n" in output
    assert counted(world, "train") in output and counted(world, "test") in output
    assert "ok    region features: 12 images, 3 x 8 float32; * SHA-256 of a sample" in output
    assert row(output, "word pieces")[-1] == str(world / "vocab.txt")
    assert row(output, "pre-trained weights")[-1] == str(world.parent / "weights" / "model.safetensors")
    assert "ok    pre-trained weights: 100.0% of " in output
    assert "ok    train has 6 answers, as data.num_answers says" in output
    assert "ok    test: every question's image has features" in output
    assert "ok    boxes are shares of the image's width and height" in output


def counted(world, split):
    """What is said of a split's annotations: question types, questions by answer type, answers in the vocabulary."""
    annotations = json.loads((world / f"vqacp_v2_{split}_annotations.json").read_bytes())
    train = Counter(
        a["multiple_choice_answer"] for a in json.loads((world / "vqacp_v2_train_annotations.json").read_bytes())
    )
    known = sum(train[a["multiple_choice_answer"]] >= 2 for a in annotations) / len(annotations)
    kinds = ", ".join(f"{n} {kind}" for kind, n in Counter(a["answer_type"] for a in annotations).items())
    types = len({a["question_type"] for a in annotations})
    share = f"{known:.1%} of the answers are in the vocabulary"
    return f"ok    {split} annotations: {types} question types; {kinds}; {share}\n"


@pytest.mark.parametrize(
    "file, what, source",
    [
        ("vqacp_v2_test_annotations.json", "test annotations", "Aishwarya Agrawal's page of the GVQA project"),
        ("vqacp_v2_train_annotations.json", "train annotations", "Aishwarya Agrawal's page of the GVQA project"),
        ("features.h5", "region features", "cdvqa prepare features --input FILE --output"),
        ("../weights/model.safetensors", "pre-trained weights", "on Hugging Face: config.json and weights"),
    ],
)
def test_a_missing_file_is_named_with_its_source(check, world, file, what, source):
    (world / file).unlink()
    status, output = check()
    assert status == 1
    assert row(output, what)[1:] == ["missing", str((world / file).resolve())]
    assert f"- {what}: " in output and source in output
    assert output.endswith("\nproblems: 1\n")
    assert ("in the vocabulary" in output) == ("train" not in file), "without train there is no vocabulary"


def test_without_anything_every_file_is_listed(check, world):
    shutil.rmtree(world)
    status, output = check(**{"model.backbone.pretrained": "unc-nlp/lxmert-base-uncased"})
    assert status == 1
    for what in ("region features", "train questions", "train annotations", "test questions", "test annotations"):
        assert row(output, what)[1] == "missing"
    assert row(output, "word pieces")[1:] == ["missing", "bert-base-uncased in the Hugging Face cache"]
    lxmert = "unc-nlp/lxmert-base-uncased in the Hugging Face cache"
    assert row(output, "pre-trained weights")[1:] == ["missing", lxmert]


def test_an_embedded_world_is_made_and_not_fetched(check, world):
    shutil.rmtree(world)
    _, output = check(**{"data.name": "scenes"})
    assert f"`cdvqa prepare scenes --output {world}` makes this data set" in output and "GVQA" not in output


def test_weights_that_prepare_makes_are_not_sought_on_a_hub(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["check", "--config", "stage1_bce.yaml", "--config", "scenes.yaml"]) == 1
    output = capsys.readouterr().out
    assert row(output, "pre-trained weights")[1] == "missing"
    made = next(line for line in output.splitlines() if line.startswith("- ") and "pre-trained weights" in line)
    assert made.endswith("`cdvqa prepare scenes --output data/scenes` makes this data set")


def test_overlays_compose_as_in_fit(capsys, world):
    status = main(["check", "--config", "stage2_lmh.yaml", "--config", "vqavs.yaml", "--data.root", str(world)])
    output = capsys.readouterr().out
    assert status == 1 and str(world / "Training" / "Training-Ques.json") in output
    assert "VQA-VS: the repository VQA-VS of PhoebusSi" in output


def test_a_wrong_config_is_something_else_than_a_missing_file(world, capsys):
    assert main(["check", "--config", "stage1_lmh.yaml", "--data.rot=x"]) == 2
    assert capsys.readouterr().err.startswith("cdvqa check: ")


def test_the_help_tells_the_exit_status(capsys):
    assert main(["check", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert text.startswith("usage: cdvqa check ")
    assert "Exit status: 0 if a run can start, 1 if something is missing or wrong, 2 if the config itself" in text


def test_nothing_is_written(check, world):
    before = {path: path.stat().st_mtime_ns for path in world.parent.rglob("*")}
    check()
    assert {path: path.stat().st_mtime_ns for path in world.parent.rglob("*")} == before


@pytest.mark.parametrize("width", [80, 100, 160])
def test_the_table_fits_the_terminal(width):
    path = "data/vqavs/OOD-Test/QT+KW+KO/OOD-Test-QT+KW+KO-Ques.json"
    missing, found = (
        Item("OOD QT+KW+KO questions", path, ""),
        Item("train questions", path, "", 10**9, "f" * 64, "", "it"),
    )
    console = Console(file=io.StringIO(), width=width)
    show(Report([missing, found], []), console)
    table = console.file.getvalue().partition("\n\n")[0].splitlines()
    assert max(map(len, table)) <= width
    assert all(line[22:].startswith(("  state", "  missing", "  ok", "    ")) for line in table)
    assert any(line.startswith("train questions         ok       1.0 GB  ffffffffffff  data/vqa") for line in table)
