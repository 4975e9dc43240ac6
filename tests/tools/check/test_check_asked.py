"""With questions of one's own, `cdvqa check` looks at what `predict` needs."""

import pytest
import torch

from cdvqa.sparsity import Subnetwork
from tests.data.toy import dump
from tests.tools.check.table import row
from tests.tools.check.test_check_model import fingerprint


def ask(path, questions):
    dump(path, [{"question_id": i, "image_id": image, "question": text} for i, (image, text) in enumerate(questions)])
    return {"data.questions": path}


def test_own_questions_need_features_and_a_network_and_nothing_else(check, world):
    for path in world.glob("*.json"):
        path.unlink()
    own = ask(world.parent / "mine.json", [(3, "what is it?"), (4, "is it?")])
    status, output = check(**own)
    assert status == 1 and row(output, "network")[1:] == ["missing", "logs/toy/lxmert"]
    assert output.endswith("\nproblems: 1\n") and "- network: train it, or name another with --ckpt_path" in output
    network = world.parent / "model.safetensors"
    metadata = {"pipeline": ["bce"], "features": fingerprint(world)}
    Subnetwork({"weight": torch.ones(2)}, {}, metadata).save(network)
    status, output = check("stage1_lmh.yaml", f"--ckpt_path={network}", **own)
    assert status == 0 and row(output, "network")[-1] == str(network)
    assert "ok    own questions: 2 questions on 2 images\n" in output
    assert "ok    own questions: every question's image has features" in output and "annotations" not in output


@pytest.mark.parametrize(
    "questions, message",
    [
        ([(3, "what?"), (99, "what?")], "features.h5: image 99 (question 1) is not in the feature file; --data.fea"),
        ([(3, 7)], "WRONG own questions: record 0 (question 0): 'question' must be a string"),
        ([(3, " ")], "WRONG own questions: record 0 (question 0): 'question' is empty"),
    ],
)
def test_wrong_own_questions(check, world, questions, message):
    status, output = check(**ask(world.parent / "mine.json", questions))
    assert status == 1 and row(output, "own questions")[1] == "unusable" and message in output


def test_own_questions_that_are_not_there(check, world):
    status, output = check(**{"data.questions": world / "mine.json"})
    assert status == 1 and row(output, "own questions")[1:] == ["missing", str(world / "mine.json")]


def test_a_checkpoint_as_the_network(check, world):
    path = world.parent / "epoch.ckpt"
    own = ask(world.parent / "mine.json", [(3, "what is it?")])
    torch.save({"network": {"pipeline": ["bce", "lmh"], "features": fingerprint(world, extractor="a")}}, path)
    status, output = check("stage1_lmh.yaml", f"--ckpt_path={path}", **own)
    assert status == 0 and "ok    network: bce+lmh\n" in output  # the file at hand names no extractor
    path.write_bytes(b"cut")
    status, output = check("stage1_lmh.yaml", f"--ckpt_path={path}", **own)
    assert status == 1 and "WRONG network: no checkpoint of cdvqa, or a broken one" in output
