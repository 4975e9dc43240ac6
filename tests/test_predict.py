"""`cdvqa predict`: plain questions, any network, and a file that the evaluation server takes."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cdvqa.callbacks.predictions import normalised
from cdvqa.cli import main
from cdvqa.data.answers.normalisation import normalise_answer
from cdvqa.metrics import official_vqa_accuracy, vqa_accuracy
from cdvqa.sparsity import Subnetwork
from tests.conftest import last_error, overlay, the_run
from tests.forking import Forked

STAGE1, STAGE2 = Path("stage1"), Path("stage2")  # runs that were moved: config.yaml means the folder it lies in
Predict = Callable[..., int]


@pytest.fixture(scope="module")
def trained(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of stage 1 and one of stage 2."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for config in ("stage1_bce.yaml", "stage2_bce.yaml"):
            assert main(["fit", "--config", config, *overlay(scenes)]) == 0
        for path, name in ((STAGE2, "stage2_bce+bce_mask_uniform_s50"), (STAGE1, "stage1_bce")):
            the_run(name).rename(path)
        for seed, path in enumerate((STAGE1 / "model.safetensors", STAGE2 / "subnetwork.safetensors")):
            network = Subnetwork.load(path)
            scatter(network.state, seed)
            network.state |= {name: network.state[name] * mask for name, mask in network.masks.items()}
            network.save(path)
        checkpoint = torch.load(STAGE1 / "checkpoints" / "last.ckpt", weights_only=True)
        scatter(checkpoint["state_dict"], 2)
        torch.save(checkpoint, STAGE1 / "checkpoints" / "last.ckpt")
    return folder


def scatter(state: dict[str, torch.Tensor], seed: int) -> None:
    """Draw the matrices anew and wide: so small a model, so little trained, gives every question the same answer."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in state.items():
        if tensor.ndim == 2 and tensor.is_floating_point():
            state[name] = 3 * torch.randn(tensor.shape, generator=generator) / tensor.shape[1] ** 0.5


@pytest.fixture
def alone(trained: Path, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the two runs, features, word pieces and questions: no annotations, no training split."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    Path("bare").mkdir()
    shutil.copy(scenes / "features.h5", "f.h5")
    shutil.copy(scenes / "vocab.txt", "bare")
    write("mine.json", asked(scenes))
    return tmp_path


def asked(world: Path) -> list[dict[str, Any]]:
    """The questions of the test split."""
    return json.loads((world / "vqacp_v2_test_questions.json").read_text())


def write(path: str | Path, content: Any, encoding: str = "utf-8") -> None:
    Path(path).write_text(content if isinstance(content, str) else json.dumps(content), encoding=encoding)


def predict(*flags: str, run: Path = STAGE1, questions: str = "mine.json", features: str = "f.h5") -> int:
    data = ["--data.root=bare", f"--data.questions={questions}", f"--data.features={features}"]
    return main(["predict", "--config", str(run / "config.yaml"), *data, *flags])


def answers(path: Path) -> dict[int, str]:
    entries = json.loads(path.read_text())
    assert all(set(entry) == {"question_id", "answer"} for entry in entries)
    by_question = {entry["question_id"]: entry["answer"] for entry in entries}
    assert len(by_question) == len(entries)
    return by_question


@pytest.mark.parametrize("run", [STAGE1, STAGE2])
def test_plain_questions_get_the_answers_of_a_test(
    alone: Path, scenes: Path, capsys: pytest.CaptureFixture[str], run: Path
):
    assert predict(run=run) == 0
    assert f"{run}/predictions/mine.json: 70 answers\n" in capsys.readouterr().out
    mine = answers(run / "predictions" / "mine.json")
    assert list(mine) == [question["question_id"] for question in asked(scenes)]
    assert main(["test", "--config", str(run / "config.yaml")]) == 0  # this one reads the training split
    assert mine == answers(run / "predictions" / "test.json")
    assert len(set(mine.values())) > 1
    check_results(json.loads((run / "results.json").read_text()), mine, scenes)


def check_results(results: dict[str, Any], answers: dict[int, str], world: Path) -> None:
    """results.json says of the split `test` what the answers score by the two rules."""
    assert results.keys() == {"preset", "departures", "selection", "identity", "splits", "means"}
    annotations = json.loads((world / "vqacp_v2_test_annotations.json").read_text())
    predictions = [{"question_id": question, "answer": answer} for question, answer in answers.items()]
    paper, official = vqa_accuracy(predictions, annotations), official_vqa_accuracy(predictions, annotations)
    kinds = {
        kind: [a for a in annotations if a["question_type"] == kind]
        for kind in {a["question_type"] for a in annotations}
    }
    per_type = {
        kind: vqa_accuracy([{"question_id": a["question_id"], "answer": answers[a["question_id"]]} for a in part], part)
        for kind, part in kinds.items()
    }
    found = results["splits"]["test"]
    assert found.pop("distribution") == "ood" and found.pop("n")["all"] == len(annotations)
    assert found.pop("official") == pytest.approx(official)
    assert found.pop("per_question_type") == pytest.approx({kind: score["all"] for kind, score in per_type.items()})
    assert found == pytest.approx(paper)


def test_the_network_says_how_questions_are_read(alone: Path):
    """A network that was trained on another text format, with another vocabulary than the config's data have."""
    network = Subnetwork.load(STAGE1 / "model.safetensors")
    assert predict() == 0
    standard = answers(STAGE1 / "predictions" / "mine.json")
    letters = [f"answer {index}" for index in range(len(network.metadata["answers"]))]
    network.metadata |= {"answers": letters, "text_format": "authors"}
    network.save("other/model.safetensors")
    assert predict("--ckpt_path=other/model.safetensors", "--data.min_count=99") == 0
    authors = answers(Path("other/predictions/mine.json"))
    assert set(authors.values()) <= set(letters)
    index = Subnetwork.load(STAGE1 / "model.safetensors").metadata["answers"].index
    assert [f"answer {index(answer)}" for answer in standard.values()] != list(authors.values())


@pytest.mark.parametrize(
    ("given", "lands"),
    [
        (str(STAGE2), STAGE2),
        (str(STAGE2 / "subnetwork.safetensors"), STAGE2),
        ("copied/elsewhere.safetensors", Path("copied")),
        ("last", STAGE1),
        (str(STAGE1 / "checkpoints" / "last.ckpt"), STAGE1),
    ],
)
def test_any_network_answers_beside_itself(alone: Path, given: str, lands: Path):
    Path("copied").mkdir()
    shutil.copy(STAGE2 / "subnetwork.safetensors", "copied/elsewhere.safetensors")
    by_network = []
    for run in (STAGE1, STAGE2):
        assert predict(run=run) == 0
        by_network.append(answers(run / "predictions" / "mine.json"))
        shutil.rmtree(run / "predictions")
    assert predict(f"--ckpt_path={given}") == 0
    assert list(Path().rglob("predictions/*")) == [lands / "predictions" / "mine.json"]
    mine = answers(lands / "predictions" / "mine.json")
    assert [mine == answered for answered in by_network] == [False, lands != STAGE1] and len(mine) == 70


@pytest.mark.parametrize("command", ["test", "validate"])
def test_an_evaluation_takes_any_network_too(alone: Path, command: str, capsys: pytest.CaptureFixture[str]):
    # Under the authors' preset there is no development split to validate on.
    flags = ["--ckpt_path", str(STAGE2), *(["--model.preset=authors"] if command == "test" else [])]
    assert main([command, "--config", str(STAGE1 / "config.yaml"), *flags, "--model.text_format=standard"]) == 0
    assert str(STAGE2) in capsys.readouterr().out
    assert not (STAGE1 / "results.json").exists()
    if command == "test":  # the network says how it was made and chosen, not the config at hand
        report = json.loads((STAGE2 / "results.json").read_text())
        assert (report["preset"], report["selection"], report["departures"]) == ("paper", "dev", {"global_batch": 64})
        assert main(["test", "--config", str(STAGE2 / "config.yaml")]) == 0
        assert json.loads((STAGE2 / "results.json").read_text())["splits"] == report["splits"]


def test_a_wrong_checkpoint_is_named(alone: Path, capsys: pytest.CaptureFixture[str]):
    assert predict("--ckpt_path=nowhere.ckpt") == 2
    assert "--ckpt_path nowhere.ckpt: no such checkpoint, run folder or network file" in last_error(capsys)
    assert predict("--ckpt_path=nowhere.safetensors") == 2
    assert "nowhere.safetensors: no such run folder or network file (--ckpt_path)" in last_error(capsys)
    assert predict("--ckpt_path=bare") == 2
    assert "bare: is no run" in last_error(capsys)
    write("broken.ckpt", "not a checkpoint")
    assert predict("--ckpt_path=broken.ckpt") == 2
    assert "broken.ckpt: no checkpoint of cdvqa, or a broken one" in last_error(capsys)
    assert main(["fit", "--config", str(STAGE2 / "config.yaml"), f"--ckpt_path={STAGE1}", "--overwrite"]) == 2
    assert "fit resumes from a checkpoint; start a stage with --model.init_from" in last_error(capsys)


def test_the_test_splits_need_no_annotations(alone: Path, scenes: Path):
    for split in ("id", "test"):
        shutil.copy(scenes / f"vqacp_v2_{split}_questions.json", "bare")
    flags = ["--data.root=bare", "--data.features=f.h5"]
    assert main(["predict", "--config", str(STAGE1 / "config.yaml"), *flags]) == 0
    written = {path.stem: answers(path) for path in (STAGE1 / "predictions").iterdir()}
    assert {split: len(given) for split, given in written.items()} == {"id": 90, "test": 70}


def test_a_test_of_some_batches_answers_their_questions(alone: Path):
    """Defect: it ended in a traceback."""
    limits = ["--trainer.limit_test_batches=2", "--data.eval_batch_size=10"]
    assert main(["test", "--config", str(STAGE1 / "config.yaml"), *limits]) == 0
    assert {path.stem: len(answers(path)) for path in (STAGE1 / "predictions").iterdir()} == {"id": 20, "test": 20}


def test_only_predict_takes_plain_questions(alone: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["test", "--config", str(STAGE1 / "config.yaml"), "--data.questions=mine.json"]) == 2
    assert "--data.questions mine.json: only `predict` takes questions without answers" in last_error(capsys)


def test_two_processes_write_what_one_writes(alone: Path):
    args = ["predict", "--config", str(STAGE2 / "config.yaml"), "--data.root=bare"]
    args += ["--data.questions=mine.json", "--data.features=f.h5", "--data.eval_batch_size=16"]
    written = []
    for processes in (1, 2):
        flags = ["--trainer.strategy=ddp", "--trainer.devices=2"] if processes == 2 else []
        forked = Forked([*args, *flags], processes)
        status, errors = forked.wait()
        assert status == 0, errors[-2000:]
        assert Path(forked.output.name).read_text().count("mine.json: 70 answers") == 1
        written.append((STAGE2 / "predictions" / "mine.json").read_bytes())
    assert written[0] == written[1]


def test_answers_of_a_foreign_vocabulary_are_normalised(alone: Path):
    network = Subnetwork.load(STAGE1 / "model.safetensors")
    network.metadata["answers"] = [f"The answer, No.{index}!" for index in range(len(network.metadata["answers"]))]
    network.save("foreign/model.safetensors")
    with pytest.warns(UserWarning, match=r"70 answers are written normalised, the first 'The answer, No\.\d+!' as"):
        assert predict("--ckpt_path=foreign") == 0
    given = answers(Path("foreign/predictions/mine.json"))
    assert all(answer.startswith("answer no.") and "!" not in answer for answer in given.values())


QUESTION = {"question_id": 7, "image_id": 1, "question": "what color is the cube?"}
WRONG: dict[str, tuple[Any, str]] = {
    "no JSON": ('[{"question_id": 7', "mine.json: not valid JSON"),
    "an object without questions": ({"asked": []}, "mine.json: holds neither a list of questions nor an object"),
    "no question": ([], "mine.json: holds no questions"),
    "no record": (["what?"], "mine.json: record 0 is not a JSON object"),
    "no image": ([QUESTION, {"question_id": 8, "question": "what?"}], "record 1 (question 8) has no 'image_id'"),
    "an id in quotes": ([QUESTION | {"question_id": "7"}], "record 0 (question 7): 'question_id' must be an integer"),
    "an id beyond 64 bits": (
        [QUESTION | {"question_id": 2**63}],
        "mine.json: a 'question_id' does not fit into 64 bits",
    ),
    "no text": ([QUESTION | {"question": 5}], "record 0 (question 7): 'question' must be a string"),
    "an empty question": ([QUESTION | {"question": " "}], "mine.json: record 0 (question 7): 'question' is empty"),
    "an id twice": ([QUESTION, QUESTION], "mine.json: duplicate question 7"),
    "an unknown image": ([QUESTION | {"image_id": 10**6}], "mine.json: f.h5: image 1000000 (question 7) is not in"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_question_file_is_named(alone: Path, capsys: pytest.CaptureFixture[str], what: str):
    content, message = WRONG[what]
    write("mine.json", content)
    assert predict() == 2
    error = last_error(capsys)
    assert error.startswith("cdvqa predict: mine.json: ") and message in error, error
    assert not (STAGE1 / "predictions").exists()


def test_a_missing_question_file_is_named(alone: Path, capsys: pytest.CaptureFixture[str]):
    assert predict(questions="absent.json") == 2
    assert "cdvqa predict: absent.json: no such file" in last_error(capsys)
    shutil.copy("mine.json", "test.json")
    assert predict(questions="test.json") == 2
    assert "test.json: its answers would replace those to a split; rename the file" in last_error(capsys)


def test_nothing_but_a_features_file_and_word_pieces_is_needed(alone: Path, scenes: Path):
    shutil.move("bare/vocab.txt", "vocab.txt")
    shutil.rmtree("bare")  # no data root at all
    assert predict("--data.tokenizer=vocab.txt") == 0
    assert len(answers(STAGE1 / "predictions" / "mine.json")) == 70


def test_other_word_pieces_are_refused(alone: Path, capsys: pytest.CaptureFixture[str]):
    with Path("bare/vocab.txt").open("a") as pieces:
        pieces.write("more\n")
    assert predict() == 2
    error = last_error(capsys)
    assert "its tokenizer is not this run's" in error and "by --data.tokenizer" in error


@given(st.text(alphabet="abot1n e.,-'?!", max_size=30))
def test_normalising_twice_is_normalising_once(answer: str):
    """So that what a counted vocabulary answers is written as it is."""
    assert normalised([(1, normalise_answer(answer))]) == [(1, normalise_answer(answer))]


def test_a_byte_order_mark_and_further_fields_are_taken(alone: Path):
    with h5py.File("f.h5") as file:
        image = int(file["image_id"][0])
    record = QUESTION | {"image_id": image, "asked_by": "me"}
    write("mine.json", {"questions": [record]}, encoding="utf-8-sig")
    assert predict() == 0
    assert list(answers(STAGE1 / "predictions" / "mine.json")) == [7]
