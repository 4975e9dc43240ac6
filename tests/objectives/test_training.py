"""What objectives declare, through the command line: weight of batches, heads, teachers, parameters of their own."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cdvqa.data.answers.vocabulary import AnswerVocabulary
from cdvqa.data.questions.official import read_questions
from cdvqa.objectives import OBJECTIVES
from cdvqa.sparsity import Subnetwork
from tests.conftest import overlay
from tests.test_processes import DOUBLE, STILL, TWO, command, witnessed

Command = Callable[..., int]
WITNESS = "--trainer.callbacks+=tests.witness.Witness"
TOYS = "tests.objectives.toys"
# One epoch of 380 questions in steps of 128: the last one has 124.
STEPS = [*STILL, DOUBLE, WITNESS, "--trainer.max_epochs=1", "--model.global_batch=128", "--trainer.limit_val_batches=0"]
SHORT = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2"]


@pytest.fixture(scope="session")
def rare(scenes: Path) -> list[str]:
    """The small world with so few answers that many questions have no label."""
    files = (scenes / f"vqacp_v2_train_{kind}.json" for kind in ("questions", "annotations"))
    vocabulary = AnswerVocabulary.from_annotations(read_questions(*files).annotations, 60)
    return [*overlay(scenes), f"--data.num_answers={len(vocabulary)}", "--data.min_count=60"]


def run_of(stage: int) -> Path:
    (folder,) = Path("logs/scenes/lxmert").glob(f"stage{stage}_*/seed0")
    return folder


@pytest.mark.parametrize("name", OBJECTIVES)
def test_accumulated_batches_are_one_batch(cdvqa: Command, rare: list[str], name: str):
    """RUBi and LPF divided by the labelled questions of each batch: a split batch gave another gradient."""
    states = []
    for accumulated in (1, 4):
        flags = [*STEPS, f"--model.objective={name}", f"--trainer.accumulate_grad_batches={accumulated}"]
        assert cdvqa("fit", "stage1_bce.yaml", *flags, "--overwrite", world=rare) == 0
        states.append(witnessed(0)["state"])
    torch.testing.assert_close(states[1], states[0], rtol=1e-10, atol=1e-10)


def test_two_processes_form_the_gradient_of_one_in_fp32(cdvqa: Command, rare: list[str]):
    """LPF divides by the labelled questions of the whole step, however they are dealt out."""
    flags = [*STILL, WITNESS, "--model.global_batch=128", "--trainer.max_epochs=1", "--trainer.limit_train_batches=1"]
    assert cdvqa("fit", "stage1_lpf.yaml", *flags, world=rare) == 0
    alone = witnessed(0)["gradient"]
    command("fit", "stage1_lpf.yaml", rare, *flags, *TWO, "--overwrite")
    for rank in range(2):
        gradient = witnessed(rank)["gradient"]
        assert gradient.dtype == torch.float32
        assert (gradient - alone).norm() <= 1e-5 * alone.norm()


def test_two_processes_form_terms_of_the_whole_batch_and_its_first_mask(cdvqa: Command, rare: list[str]):
    """Contrast draws noise and compares all questions of a batch, in the criterion's batches, too."""
    assert cdvqa("fit", "stage1_bce.yaml", *SHORT, world=rare) == 0
    sparsity = {"criterion": "first_order", "criterion_options": "{batches: 2}", "reset_every": "1"}
    flags = [*STEPS, f"--model.objective={TOYS}.Contrast", f"--model.init_from={run_of(1)}"]
    flags += [f"--model.sparsity.{name}={value}" for name, value in sparsity.items()]
    assert cdvqa("fit", "stage2_bce.yaml", *flags, world=rare) == 0
    alone = witnessed(0)["state"]
    command("fit", "stage2_bce.yaml", rare, *flags, *TWO, "--overwrite")
    for rank in range(2):
        torch.testing.assert_close(witnessed(rank)["state"], alone, rtol=1e-10, atol=1e-10)


def test_an_objective_of_the_whole_batch_is_not_accumulated(cdvqa: Command, capsys: pytest.CaptureFixture[str]):
    flags = [f"--model.objective={TOYS}.Contrast", "--trainer.accumulate_grad_batches=2"]
    assert cdvqa("fit", "stage1_bce.yaml", *flags) == 2
    assert "--trainer.accumulate_grad_batches: Contrast depends on the whole batch" in capsys.readouterr().err


def test_a_head_is_trained_and_saved_and_another_one_starts_fresh(cdvqa: Command):
    assert cdvqa("fit", "stage1_bce.yaml", f"--model.objective={TOYS}.Margin", *SHORT) == 0
    assert cdvqa("test", "stage1_bce.yaml", f"--model.objective={TOYS}.Margin") == 0
    first = Subnetwork.load(run_of(1) / "model.safetensors")
    assert first.metadata["head"] == f"{TOYS}.CosineHead" and "classifier.3.directions" in first.state
    assert cdvqa("fit", "stage2_bce.yaml", f"--model.init_from={run_of(1)}", *SHORT) == 0
    second = Subnetwork.load(run_of(2) / "subnetwork.safetensors")
    assert second.metadata["head"] is None and "classifier.3.bias" in second.state
    torch.testing.assert_close(second.state["classifier.0.bias"], first.state["classifier.0.bias"], atol=0.02, rtol=0)


def test_a_teacher_is_a_finished_run(cdvqa: Command, capsys: pytest.CaptureFixture[str]):
    assert cdvqa("fit", "stage1_bce.yaml", "--seed_everything=3", *SHORT) == 0
    (teacher,) = Path("logs/scenes/lxmert").glob("stage1_*/seed3")
    distil = f"--model.objective={TOYS}.Distil"
    for flags in ([distil], [f"--model.teacher={teacher}"]):
        assert cdvqa("fit", "stage1_bce.yaml", *flags) == 2
        assert "--model.teacher: give it if, and only if, the objective needs a teacher" in capsys.readouterr().err
    assert cdvqa("fit", "stage1_bce.yaml", distil, f"--model.teacher={teacher}/nothing") == 2
    assert "no finished run" in capsys.readouterr().err
    before = (teacher / "model.safetensors").read_bytes()
    assert cdvqa("fit", "stage1_bce.yaml", distil, f"--model.teacher={teacher}", *SHORT) == 0
    network = Subnetwork.load(run_of(1) / "model.safetensors")
    assert (teacher / "model.safetensors").read_bytes() == before
    assert not any(name.startswith("teacher") for name in network.state)


def test_parameters_lie_beside_the_network_and_belong_to_their_objective(
    cdvqa: Command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    scaled = [f"--model.objective={TOYS}.Scaled", "--model.objective_lr=0.1"]
    assert cdvqa("fit", "stage1_bce.yaml", *scaled, *SHORT) == 0
    file = run_of(1) / "objective.safetensors"
    trained = load_file(file)["scale"]
    assert 0.05 < (trained - 1).abs().max() < 0.5, "the objective's own rate"
    assert "scale" not in "".join(Subnetwork.load(run_of(1) / "model.safetensors").state)
    assert cdvqa("test", "stage1_bce.yaml", *scaled) == 0

    # The same objective goes on with them in the next stage; another one leaves them aside and says so.
    assert cdvqa("fit", "stage2_bce.yaml", scaled[0], "--model.objective_lr=1e-12", *SHORT) == 0
    torch.testing.assert_close(load_file(run_of(2) / "objective.safetensors")["scale"], trained)

    logged: list[str] = []
    monkeypatch.setattr("cdvqa.objectives.state.rank_zero_info", logged.append)
    for other in (f"--model.objective={TOYS}.Rescaled", "--model.objective=ce"):
        logged.clear()
        assert cdvqa("fit", "stage2_bce.yaml", other, f"--model.init_from={run_of(1)}", *SHORT) == 0
        assert [line.removeprefix("objective: ") for line in logged] == [f"{file} is of {TOYS}.Scaled and is not read"]

    file.unlink()
    capsys.readouterr()
    assert cdvqa("test", "stage1_bce.yaml", *scaled) == 2
    assert "objective.safetensors: is missing; the scores of" in capsys.readouterr().err


def test_an_option_that_is_a_preset_field_counts_as_that_field(cdvqa: Command, capsys: pytest.CaptureFixture[str]):
    """`objective_options.trainable=false` froze LMH while `departures` was empty."""
    frozen = "--model.objective_options={trainable: false}"
    assert cdvqa("fit", "stage1_lmh.yaml", frozen, "--trainer.max_epochs=0") == 0
    assert Subnetwork.load(run_of(1) / "model.safetensors").metadata["departures"]["lmh_trainable"] is False
    assert cdvqa("fit", "stage1_lmh.yaml", frozen, "--model.lmh_trainable=true") == 2
    assert "--model.objective_options.trainable contradicts --model.lmh_trainable" in capsys.readouterr().err
