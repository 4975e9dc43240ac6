"""`cdvqa check` tells what is missing, what is spoilt and what does not fit together, and fetches nothing."""

import json
import re
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LxmertConfig, LxmertModel

from cdvqa.cli import main
from cdvqa.data import write_features
from cdvqa.data.layouts import OOD_SETS
from cdvqa.sparsity import Subnetwork
from tests.data.toy import IMAGES, dump, split, write_toy, write_toy_features

TINY = {
    "vocab_size": 40, "hidden_size": 16, "num_attention_heads": 4, "intermediate_size": 32, "visual_feat_dim": 8,
    "l_layers": 1, "r_layers": 1, "x_layers": 1, "max_position_embeddings": 20,
}  # fmt: skip


@pytest.fixture
def world(tmp_path, monkeypatch):
    """Toy data with six answers, and pre-trained weights for a tiny LXMERT; everything that stage 1 needs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(socket.socket, "connect", lambda *args: pytest.fail("check has asked the network"))
    write_toy(tmp_path / "data")
    LxmertModel(LxmertConfig(**TINY)).save_pretrained(tmp_path / "weights")
    return tmp_path / "data"


@pytest.fixture
def check(world, capsys):
    """Run check on the toy data; return its status and what it printed."""

    def run(config="stage1_lmh.yaml", **options):
        settings = {"data.root": world, "data.name": "toy", "data.num_answers": 6, "data.min_count": 2}
        settings["model.backbone.pretrained"] = world.parent / "weights"
        flags = [f"--{key}={value}" for key, value in (settings | options).items()]
        status = main(["check", "--config", config, *flags])
        return status, capsys.readouterr().out

    return run


def row(output: str, what: str) -> list[str]:
    """The cells of a line of the table."""
    line = next(line for line in output.splitlines() if line.startswith(f"{what} "))
    return re.split(r"\s{2,}", line.strip())


def test_all_present(check, world):
    status, output = check()
    assert status == 0 and output.endswith("everything is there and fits together\n")
    assert "missing or unusable" not in output and "WRONG" not in output
    path, size = world / "vqacp_v2_train_questions.json", (world / "vqacp_v2_train_questions.json").stat().st_size
    _, where, state, shown, holds = row(output, "train questions")
    assert (where, state, holds) == (str(path), "ok", "60 questions on 12 images") and shown == f"{size / 1000:.1f} kB"
    assert row(output, "test questions")[4] == "23 questions on 12 images"
    assert row(output, "train annotations")[4] == "3 question types"
    assert row(output, "region features")[4] == "12 images, 3 x 8 float32"
    assert row(output, "word pieces")[1:3] == [str(world / "vocab.txt"), "ok"]
    assert row(output, "pre-trained weights")[1] == str(world.parent / "weights" / "model.safetensors")
    assert row(output, "pre-trained weights")[4].startswith("100.0% of ")
    assert "ok    train has 6 answers with at least 2 questions, as data.num_answers says" in output
    assert "ok    test: every question's image has features" in output
    assert "ok    features of 12 sampled images are finite, " in output


def test_share_of_training_questions_with_an_answer_in_the_vocabulary(check, world):
    questions, annotations = split(20, 1000)
    for i, annotation in enumerate(annotations):
        annotation["answers"] = [{"answer": "yes" if i < 15 else "never heard"}] * 10
        annotation["multiple_choice_answer"] = annotation["answers"][0]["answer"]
    annotations[19]["multiple_choice_answer"] = annotations[18]["multiple_choice_answer"] = "yes"
    dump(world / "vqacp_v2_train_questions.json", questions)
    dump(world / "vqacp_v2_train_annotations.json", annotations)
    status, output = check(**{"data.num_answers": 1, "data.min_count": 9})
    assert status == 0
    assert "75.00% of the training questions have an answer in the vocabulary" in output


@pytest.mark.parametrize(
    "file, what, source",
    [
        ("vqacp_v2_test_annotations.json", "test annotations", "Aishwarya Agrawal's page of the GVQA project"),
        ("features.h5", "region features", "cdvqa prepare features --input FILE.tsv --output"),
        ("../weights/model.safetensors", "pre-trained weights", "on Hugging Face: config.json and weights"),
    ],
)
def test_a_missing_file_is_named_with_its_source(check, world, file, what, source):
    (world / file).unlink()
    status, output = check()
    assert status == 1
    assert row(output, what)[1:] == [str((world / file).resolve()), "missing"]
    assert f"- {what}: " in output and source in output
    assert output.endswith("\nproblems: 1\n")


def test_without_anything_every_file_is_listed(check, world):
    shutil.rmtree(world)
    status, output = check(**{"model.backbone.pretrained": "unc-nlp/lxmert-base-uncased"})
    assert status == 1
    for what in ("region features", "train questions", "train annotations", "test questions", "test annotations"):
        assert row(output, what)[2] == "missing"
    assert row(output, "word pieces")[1:] == ["bert-base-uncased in the Hugging Face cache", "missing"]
    assert row(output, "pre-trained weights")[1:] == [
        "unc-nlp/lxmert-base-uncased in the Hugging Face cache",
        "missing",
    ]


def test_an_embedded_world_is_made_and_not_fetched(check, world):
    shutil.rmtree(world)
    _, output = check(**{"data.name": "scenes"})
    assert f"`cdvqa prepare scenes --output {world}` makes this data set" in output and "GVQA" not in output


def test_weights_in_the_cache_of_the_hub_are_found(check, world, monkeypatch):
    folder = world.parent / "weights"

    def cached(name, file):
        assert name == "unc-nlp/lxmert-base-uncased"
        return str(folder / file) if (folder / file).is_file() else None

    monkeypatch.setattr("cdvqa.tools.check_model.try_to_load_from_cache", cached)
    options = {"model.backbone.pretrained": "unc-nlp/lxmert-base-uncased"}
    status, output = check(**options)  # found, but of another shape than LXMERT-base
    assert status == 1
    assert row(output, "pre-trained weights")[1:3] == [str(folder / "model.safetensors"), "unusable"]


@pytest.mark.parametrize("file", ["vqacp_v2_train_questions.json", "vqacp_v2_test_annotations.json", "features.h5"])
def test_a_file_cut_short_is_unusable(check, world, file):
    whole = (world / file).read_bytes()
    (world / file).write_bytes(whole[: len(whole) // 2])
    status, output = check()
    assert status == 1
    line = next(line for line in output.splitlines() if str(world / file) in line)
    assert "unusable" in line and ("not valid JSON" in line or "not a readable HDF5 file" in line)


def test_weights_cut_short_are_unusable(check, world):
    path = world.parent / "weights" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    status, output = check()
    assert status == 1 and row(output, "pre-trained weights")[2] == "unusable"


def test_an_image_without_features(check, world):
    keep = np.arange(IMAGES - 1)
    write_toy_features(world / "features.h5")
    arrays = write_toy_features(world / "all.h5")
    write_features(world / "features.h5", **{name: values[keep] for name, values in arrays.items()})
    status, output = check()
    assert status == 1
    questions = json.loads((world / "vqacp_v2_train_questions.json").read_bytes())
    lost = [q["question_id"] for q in questions if q["image_id"] == arrays["image_id"][-1]]
    assert f"WRONG train: {len(lost)} questions on 1 images have no features" in output
    assert f"(first: question {min(lost)}, image {arrays['image_id'][-1]})" in output


def test_another_number_of_answers(check):
    status, output = check(**{"data.num_answers": 7})
    assert status == 1
    assert "WRONG train has 6 answers with at least 2 questions, but data.num_answers says 7" in output
    assert "set --data.num_answers 6" in output


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_features_that_are_not_finite(check, world, value, dtype):
    features = np.ones((IMAGES, 3, 8), dtype)
    features[4, 1, 2] = value
    arrays = write_toy_features(world / "features.h5", features=features)
    status, output = check()
    assert status == 1
    assert f"image {arrays['image_id'][4]} has NaN or infinite features" in output


def test_features_too_large_for_float16_are_told(check, world):
    write_toy_features(world / "features.h5", features=np.full((IMAGES, 3, 8), 70_000, np.float32))
    status, output = check()
    assert status == 0 and "too large for float16" in output


def test_boxes_in_pixels(check, world):
    write_toy_features(world / "features.h5", boxes=np.full((IMAGES, 3, 4), 200, np.float32))
    status, output = check()
    assert status == 1 and "WRONG their boxes reach from 200 to 200 of the image's width and height" in output


def test_features_of_another_width_than_the_backbone(check, world):
    write_toy_features(world / "features.h5", features=np.ones((IMAGES, 3, 5), np.float32))
    status, output = check()
    assert status == 1 and "WRONG features are 5 wide, the backbone takes 8" in output


def test_more_word_pieces_than_the_backbone_embeds(check, world):
    with (world / "vocab.txt").open("a") as file:
        file.writelines(f"piece{i}\n" for i in range(40))
    status, output = check()
    assert status == 1 and "WRONG 53 word pieces, the backbone embeds 40" in output


def test_stage_2_needs_its_parent_run_and_no_weights(check, world):
    shutil.copy(world.parent / "weights" / "config.json", world)  # the shape of the model, without its weights
    options = {"model.backbone.pretrained": world, "model.parent_objective": "bce"}
    status, output = check("stage2_lmh.yaml", **options)
    assert status == 1 and "pre-trained weights" not in output
    assert row(output, "parent run")[1:] == ["logs/toy/lxmert/stage1_bce/seed0", "missing"]
    assert "make it with `cdvqa fit --config stage1_bce.yaml`" in output


def test_a_parent_run_that_is_there(check, world):
    run = Path("logs/toy/lxmert/stage1_bce/seed0")
    dump(run / "run.json", {"finished": "2026-01-01"})
    Subnetwork({"weight": torch.ones(2)}, {}, {"pipeline": ["bce"]}).save(run / "model.safetensors")
    status, output = check("stage2_lmh.yaml", **{"model.parent_objective": "bce"})
    assert status == 0
    _, where, state, _, holds = row(output, "parent run")
    assert (where, state, holds) == (str(run / "model.safetensors"), "ok", "bce: 1 tensors, 0 of them masked")
    (run / "model.safetensors").write_bytes(b"cut")
    status, output = check("stage2_lmh.yaml", **{"model.parent_objective": "bce"})
    assert status == 1 and row(output, "parent run")[2] == "unusable"


def test_a_network_to_start_from(check, world):
    status, output = check("stage2_lmh.yaml", **{"model.init_from": "elsewhere"})
    assert status == 1
    assert row(output, "starting network")[1:] == ["elsewhere", "missing"]


def test_vqa_vs_lists_its_ood_sets_and_finds_foreign_questions(check, world):
    for folder, first_id in (("Training", 0), ("Val", 1000), ("IID-Test", 2000)):
        questions, annotations = split(60, first_id)
        dump(world / folder / f"{folder}-Ques.json", questions)
        dump(world / folder / f"{folder}-Ans.json", annotations)
    for name in OOD_SETS[1:]:
        dump(world / "OOD-Test" / name / f"OOD-Test-{name}-Ques.json", [{"question_id": 2001}, {"question_id": 2002}])
    dump(world / "OOD-Test" / "KO" / "OOD-Test-KO-Ques.json", [{"question_id": 2001}, {"question_id": 7}])
    status, output = check(**{"data.layout": "vqavs"})
    assert status == 1
    assert row(output, "OOD QT questions")[2] == "missing"
    assert row(output, "OOD KW+KO questions")[4] == "2 questions"
    assert "WRONG OOD KO: 1 questions are not in the IID test" in output
    assert output.endswith("\nproblems: 2\n")


def test_overlays_compose_as_in_fit(capsys, world):
    status = main(["check", "--config", "stage2_lmh.yaml", "--config", "vqavs.yaml", "--data.root", str(world)])
    output = capsys.readouterr().out
    assert status == 1 and str(world / "Training" / "Training-Ques.json") in output
    assert "VQA-VS: the repository VQA-VS of PhoebusSi" in output
