"""What objectives declare, through the command line: weight of batches, heads, teachers, parameters of their own."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cdvqa.data.answers.vocabulary import AnswerVocabulary
from cdvqa.data.questions.official import read_questions
from cdvqa.objectives import OBJECTIVES
from cdvqa.sparsity import Subnetwork
from tests.conftest import overlay, the_run
from tests.test_processes import DOUBLE, STILL, TWO, command, witnessed

Command = Callable[..., int]
WITNESS = "--trainer.callbacks+=tests.witness.Witness"
TOYS = "tests.objectives.toys"
# One epoch of 380 questions in steps of 128: the last one has 124.
STEPS = [*STILL, DOUBLE, WITNESS, "--trainer.max_epochs=1", "--model.global_batch=128", "--trainer.limit_val_batches=0"]
TEACHERLESS = {name: kind for name, kind in OBJECTIVES.items() if "teacher" not in kind.needs}
OF_THE_BATCH = [name for name, kind in TEACHERLESS.items() if kind.batch_dependent]
SHORT = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2"]
EACH = "--trainer.log_every_n_steps=1"


@pytest.fixture(scope="session")
def rare(scenes: Path) -> list[str]:
    """The small world with so few answers that many questions have no label."""
    files = (scenes / f"vqacp_v2_train_{kind}.json" for kind in ("questions", "annotations"))
    vocabulary = AnswerVocabulary.from_annotations(read_questions(*files).annotations, 60)
    return [*overlay(scenes), f"--data.num_answers={len(vocabulary)}", "--data.min_count=60"]


def run_of(stage: int, seed: int = 0) -> Path:
    (folder,) = Path("logs/scenes/lxmert").glob(f"stage{stage}_*/seed{seed}")
    return folder


def logged(stage: int, metric: str, seed: int = 0) -> list[float]:
    """The values of a metric, in their order."""
    rows = (line.split(",") for line in (run_of(stage, seed) / "metrics.csv").read_text().splitlines())
    return [float(value) for _, name, value in rows if name == metric]


@pytest.mark.parametrize("name", [name for name in TEACHERLESS if name not in OF_THE_BATCH])
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


@pytest.mark.parametrize("name", [f"{TOYS}.Contrast", *OF_THE_BATCH])
def test_two_processes_form_terms_of_the_whole_batch_and_its_first_mask(cdvqa: Command, rare: list[str], name: str):
    """These draw noise and compare all questions of a batch, in the criterion's batches, too."""
    assert cdvqa("fit", "stage1_bce.yaml", *SHORT, world=rare) == 0
    sparsity = {"criterion": "first_order", "criterion_options": "{batches: 2}", "reset_every": "1"}
    flags = [*STEPS, f"--model.objective={name}", f"--model.init_from={run_of(1)}"]
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


def test_an_objective_gets_its_needs_and_no_more_and_draws_the_noise_of_its_step(cdvqa: Command):
    flags = [f"--model.objective={TOYS}.LogsProgress", "--trainer.limit_train_batches=2", EACH]
    flags += ["--trainer.limit_val_batches=0"]
    for seed in (0, 1):
        assert cdvqa("fit", "stage1_bce.yaml", *flags, f"--seed_everything={seed}") == 0
    found = {name: logged(1, f"objective/{name}") for name in ("step", "steps", "epoch", "epochs")}
    assert found == {"step": [0, 1, 2, 3], "steps": [4] * 4, "epoch": [0, 0, 1, 1], "epochs": [2] * 4}
    noise = [number for seed in (0, 1) for number in logged(1, "objective/noise", seed)]
    assert len(set(noise)) == 8, "random numbers are of the seed and the step"

    # The gradients of a criterion are those before the first step, in one-shot pruning too, which has none.
    flags += ["--model.sparsity.criterion=first_order", "--model.sparsity.criterion_options.batches=1", *SHORT]
    for method in ("mask", "omp"):
        assert cdvqa("fit", "stage2_bce.yaml", *flags, f"--model.sparsity.method={method}") == 0


def counted(run: Path) -> int:
    return json.loads((run / "run.json").read_text())["parameters"]["full"]  # type: ignore[no-any-return]


def test_a_head_is_trained_and_saved_and_another_one_starts_fresh(cdvqa: Command, monkeypatch: pytest.MonkeyPatch):
    margin, said = f"--model.objective={TOYS}.Margin", list[str]()
    monkeypatch.setattr("cdvqa.stages.stage.rank_zero_info", said.append)
    assert cdvqa("fit", "stage1_bce.yaml", margin, "--trainer.max_epochs=0", "--trainer.default_root_dir=start") == 0
    (start,) = Path("start").rglob("model.safetensors")
    assert cdvqa("fit", "stage1_bce.yaml", margin, *SHORT) == 0
    assert cdvqa("test", "stage1_bce.yaml", margin) == 0
    first = Subnetwork.load(run_of(1) / "model.safetensors")
    assert first.metadata["head"] == f"{TOYS}.CosineHead"
    head = first.state["classifier.3.directions"]
    assert 0 < (head - Subnetwork.load(start).state["classifier.3.directions"]).abs().max() < 0.1
    said.clear()
    assert cdvqa("fit", "stage2_bce.yaml", f"--model.init_from={run_of(1)}", *SHORT) == 0
    assert said == [f"weights: {run_of(1) / 'model.safetensors'}; the head (linear) starts fresh"]
    second = Subnetwork.load(run_of(2) / "subnetwork.safetensors")
    assert second.metadata["head"] is None
    torch.testing.assert_close(second.state["classifier.0.bias"], first.state["classifier.0.bias"], atol=0.02, rtol=0)
    linear = sum(tensor.numel() for name, tensor in second.state.items() if name.startswith("classifier.3."))
    assert counted(run_of(1)) - head.numel() == counted(run_of(2)) - linear


def test_a_teacher_is_a_finished_run(cdvqa: Command, capsys: pytest.CaptureFixture[str]):
    margin = f"--model.objective={TOYS}.Margin"  # it has a head of its own
    assert cdvqa("fit", "stage1_bce.yaml", "--seed_everything=3", margin, *SHORT) == 0
    (teacher,) = Path("logs/scenes/lxmert").glob("stage1_*/seed3")
    distil = f"--model.objective={TOYS}.Distil"
    for flags in ([distil], [f"--model.teacher={teacher}"]):
        assert cdvqa("fit", "stage1_bce.yaml", *flags) == 2
        assert "--model.teacher: give it if, and only if, the objective needs a teacher" in capsys.readouterr().err
    assert cdvqa("fit", "stage1_bce.yaml", distil, f"--model.teacher={teacher}/nothing") == 2
    assert "no finished run" in capsys.readouterr().err
    before = (teacher / "model.safetensors").read_bytes()
    # A student that starts as its teacher, and has no dropout, says at first what the teacher says.
    same = [*STILL, f"--model.init_from={teacher}", "--model.warmup=0", EACH]
    assert cdvqa("fit", "stage1_bce.yaml", distil, f"--model.teacher={teacher}", *same, *SHORT) == 0
    first, second = logged(1, "objective/gap")
    assert first < 1e-5 < second
    network = Subnetwork.load(run_of(1) / "model.safetensors")
    assert (teacher / "model.safetensors").read_bytes() == before
    assert not any(name.startswith("teacher") for name in network.state)
    settings, identity = (json.loads((run / "run.json").read_text()) for run in (run_of(1), teacher))
    assert settings["settings"]["model.teacher"] == {"identity": identity["identity"], "seed": 3}


def test_a_teacher_scores_the_vocabulary(cdvqa: Command, capsys: pytest.CaptureFixture[str]):
    """A generative teacher ended in a traceback: it sees pictures, and has no logits to learn from."""
    assert cdvqa("fit", "stage1_ce.yaml", "mplug.yaml", *SHORT) == 0
    (teacher,) = Path("logs/scenes/mplug").glob("stage1_*/seed0")
    assert cdvqa("fit", "stage1_bce.yaml", "--model.objective=genb_lite", f"--model.teacher={teacher}", *SHORT) == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("cdvqa fit: ")]
    assert "--model.teacher" in error and "mplug writes its answers" in error


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

    said, start = list[str](), [f"--model.init_from={run_of(1)}"]
    monkeypatch.setattr("cdvqa.objectives.state.rank_zero_info", said.append)
    for other in (f"--model.objective={TOYS}.Rescaled", "--model.objective=ce"):
        said.clear()
        assert cdvqa("fit", "stage2_bce.yaml", other, *start, *SHORT) == 0
        assert [line.removeprefix("objective: ") for line in said] == [f"{file} is of {TOYS}.Scaled and is not read"]

    counts = {counted(run) for run in (run_of(1), the_run("stage2_Scaled+ce_mask_uniform_s50"))}
    assert len(counts) == 1, "its parameters are not counted"
    # The same holds where it cannot be read; whoever needs it, is refused.
    file.write_bytes(b"cut")
    said.clear()
    assert cdvqa("fit", "stage2_bce.yaml", "--model.objective=ce", "--overwrite", *start, *SHORT) == 0
    assert len(said) == 1 and f"{file} cannot be read (" in said[0]
    capsys.readouterr()
    assert cdvqa("fit", "stage2_bce.yaml", scaled[0], "--overwrite", *start, *SHORT) == 2
    assert f"{file}: does not fit {TOYS}.Scaled (" in capsys.readouterr().err
    file.unlink()
    capsys.readouterr()
    assert cdvqa("test", "stage1_bce.yaml", *scaled) == 2
    assert "objective.safetensors: is missing; the scores of" in capsys.readouterr().err


def test_the_objectives_parameters_have_a_clipping_norm_of_their_own(cdvqa: Command):
    """Adam divides by the size of a gradient, so a norm far below its eps of 1e-8 stops what is clipped."""
    scaled = [f"--model.objective={TOYS}.Scaled", "--model.objective_lr=0.1", "--model.warmup=0", *SHORT]
    for flag, moves in (("--model.objective_clip=1e-14", False), ("--trainer.gradient_clip_val=1e-14", True)):
        assert cdvqa("fit", "stage1_bce.yaml", *scaled, flag) == 0
        scale = load_file(run_of(1) / "objective.safetensors")["scale"]
        bias = Subnetwork.load(run_of(1) / "model.safetensors").state["classifier.3.bias"]  # 0 at the start
        assert ((scale - 1).abs().max() > 0.05, bias.abs().max() > 1e-4) == (moves, not moves)
        shutil.rmtree("logs")


def test_an_option_that_is_a_preset_field_counts_as_that_field(cdvqa: Command, capsys: pytest.CaptureFixture[str]):
    """`objective_options.trainable=false` froze LMH while `departures` was empty."""
    frozen = "--model.objective_options={trainable: false}"
    assert cdvqa("fit", "stage1_lmh.yaml", frozen, "--trainer.max_epochs=0") == 0
    assert Subnetwork.load(run_of(1) / "model.safetensors").metadata["departures"]["lmh_trainable"] is False
    assert cdvqa("fit", "stage1_lmh.yaml", frozen, "--model.lmh_trainable=true") == 2
    assert "--model.objective_options.trainable contradicts --model.lmh_trainable" in capsys.readouterr().err
