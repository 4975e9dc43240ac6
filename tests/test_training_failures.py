"""What stops a run says so in one line and leaves whole what was saved before."""

import os
import re
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from cdvqa.errors import Stopped, chain
from cdvqa.files import full_disk, write_atomically
from cdvqa.runs.loggers import MetricsLog
from cdvqa.sparsity import Subnetwork
from tests.conftest import last_error, overlay, the_run
from tests.ending import errors_of
from tests.killing import differences, start

Command = Callable[..., int]
OFTEN = "--checkpoint_every_n_steps=2"


def checkpoint() -> Path:
    """Of the only run."""
    return the_run("stage1_bce") / "checkpoints" / "last.ckpt"


def fault(name: str, step: int, rank: int = 0) -> list[str]:
    """The flags of a fault at this optimiser step."""
    flag = "--trainer.callbacks"
    return [f"{flag}+=tests.faults.{name}", f"{flag}.step={step}", f"{flag}.rank={rank}"]


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """No file may grow beyond this many bytes, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize(("kind", "what"), [("SpoilLoss", "loss"), ("SpoilGradient", "gradient norm")])
def test_a_number_that_is_not_finite_stops_the_run_before_it_is_saved(
    cdvqa: Command, capsys: pytest.CaptureFixture[str], kind: str, what: str
):
    assert cdvqa("fit", "stage1_bce.yaml", OFTEN, *fault(kind, step=4)) == 1
    said = last_error(capsys)
    assert said.startswith(f"cdvqa fit: step 4: the {what} is not finite (64 questions: ")
    assert said.endswith("; saved up to step 2, go on with --ckpt_path last")
    state = torch.load(checkpoint(), weights_only=True)
    assert state["global_step"] == 2
    assert all(value.isfinite().all() for value in state["state_dict"].values())
    never = fault(kind, step=10**6)  # a run with other callbacks is another run
    assert cdvqa("fit", "stage1_bce.yaml", OFTEN, *never, "--ckpt_path=last") == 0


def test_the_questions_named_are_those_of_the_step(cdvqa: Command, capsys: pytest.CaptureFixture[str]):
    flags = ["--model.global_batch=4", "--trainer.accumulate_grad_batches=2", *fault("SpoilLoss", step=3)]
    assert cdvqa("fit", "stage1_bce.yaml", *flags) == 1
    first = last_error(capsys)
    assert "(4 questions: " in first  # both batches of the step were spoiled
    assert cdvqa("fit", "stage1_bce.yaml", *flags, "--overwrite") == 1
    assert last_error(capsys) == first


def test_without_a_norm_the_gradients_are_looked_at_all_the_same(cdvqa: Command, capsys: pytest.CaptureFixture[str]):
    assert cdvqa("fit", "stage1_bce.yaml", "--trainer.gradient_clip_val=0", *fault("SpoilGradient", step=4)) == 1
    assert "step 4: the gradient norm is not finite" in last_error(capsys)


def test_a_spoiled_step_that_is_looked_up_later_is_still_named_and_not_saved(
    cdvqa: Command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """As on a GPU, where only some steps are looked at."""
    monkeypatch.setattr("cdvqa.callbacks.finite.waits_for_nothing", lambda tensor: False)
    assert cdvqa("fit", "stage1_bce.yaml", OFTEN, "--trainer.log_every_n_steps=5", *fault("SpoilLoss", step=3)) == 1
    assert "step 3: the loss is not finite (64 questions: " in last_error(capsys)
    assert torch.load(checkpoint(), weights_only=True)["global_step"] == 2


def test_all_processes_stop(cdvqa: Command, scenes: Path):
    two = ["--trainer.strategy=ddp", "--trainer.devices=2", *fault("SpoilLoss", step=4, rank=1)]
    process = start(["fit", "--config", "stage1_bce.yaml", *overlay(scenes), OFTEN, *two])
    (errors,) = errors_of([process])
    said = [line for line in errors.splitlines() if line.startswith("cdvqa fit:")]
    assert process.returncode == 1 and len(said) == 1 and "Traceback" not in errors
    assert "step 4: the loss is not finite (32 questions: " in said[0]  # the second process's half
    assert torch.load(checkpoint(), weights_only=True)["global_step"] == 2


def test_a_step_that_the_gradient_scaler_skips_is_no_failure(
    cdvqa: Command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("pytorch_lightning.plugins.precision.Precision.scaler", object(), raising=False)
    assert cdvqa("fit", "stage1_bce.yaml", *fault("SpoilGradient", step=4)) == 1
    assert "step 5: the loss is not finite" in last_error(capsys)  # for nothing skips the step here


def test_a_full_disk_leaves_the_checkpoint_before_whole(cdvqa: Command, capsys: pytest.CaptureFixture[str]):
    assert cdvqa("fit", "stage1_bce.yaml", OFTEN) == 0
    folder = the_run("stage1_bce")
    folder.rename("whole")
    full = os.path.getsize("whole/checkpoints/last.ckpt")
    with files_up_to(full * 2 // 3):  # the one of step 0 lacks the optimiser's state, and fits
        assert cdvqa("fit", "stage1_bce.yaml", OFTEN) == 1
    said = last_error(capsys)
    assert f"{checkpoint()}: File too large" in said
    assert said.endswith("saved up to step 0, go on with --ckpt_path last")
    assert not list(folder.rglob("*.tmp"))
    assert cdvqa("fit", "stage1_bce.yaml", OFTEN, "--ckpt_path=last") == 0
    assert differences(Path("whole"), folder) == []


def test_a_full_disk_is_told_in_one_line_whatever_is_written(tmp_path: Path):
    network, metrics = tmp_path / "model.safetensors", MetricsLog(tmp_path / "metrics.csv")
    metrics.log_metrics({"loss": 1.0}, step=0)
    network.write_bytes(b"older")
    with files_up_to(100):
        with pytest.raises(Stopped, match=r"model\.safetensors: File too large; what was saved before is whole"):
            Subnetwork({"weight": torch.zeros(1000)}, {}, {}).save(network)
        with pytest.raises(Stopped, match=r"metrics\.csv: File too large"):
            metrics.log_metrics({f"loss {number}": 1.0 for number in range(20)}, step=1)
        with pytest.raises(Stopped, match=r"file: File too large"), write_atomically(tmp_path / "file") as temporary:
            temporary.write_bytes(bytes(1000))
    assert network.read_bytes() == b"older"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.csv", "model.safetensors"]


@pytest.mark.parametrize("threads", [0, 2])
def test_a_feature_file_that_is_cut_off_in_training(
    cdvqa: Command, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], threads: int
):
    features = tmp_path / "features.h5"
    shutil.copy(scenes / "features.h5", features)
    flags = ["stage1_bce.yaml", OFTEN, f"--data.features={features}", f"--data.num_workers={threads}"]
    flags.append("--model.global_batch=16")
    never = fault("CutFeatures", step=10**6)  # a run with other callbacks is another run
    assert cdvqa("fit", *flags, *never) == 0
    folder = the_run("stage1_bce")
    folder.rename("whole")
    assert cdvqa("fit", *flags, *fault("CutFeatures", step=4)) == 2
    said = last_error(capsys)
    assert f"{features}: /" in said and "(the file ends inside it)" in said
    assert re.search("saved up to step [468], go on with --ckpt_path last$", said)  # threads have read ahead
    shutil.copy(scenes / "features.h5", features)
    assert cdvqa("fit", *flags, *never, "--ckpt_path=last") == 0
    assert [found for found in differences(Path("whole"), folder) if "callbacks" not in found] == []


def test_errors_that_were_raised_from_each_other_come_to_an_end():
    first, second = OSError(28, "No space left on device"), ValueError("while closing")
    first.__context__, second.__context__ = second, first
    assert list(chain(second)) == [second, first]
    assert full_disk(second) == "No space left on device" and not full_disk(ValueError("(os error 2)"))


def test_slurm_is_left_to_the_job_script(cdvqa: Command, monkeypatch: pytest.MonkeyPatch):
    """Lightning's handler would save in the middle of a step, and start any run from that file."""
    variables = {"NTASKS": 1, "JOB_ID": 1, "JOB_NAME": "train", "PROCID": 0, "LOCALID": 0, "NODEID": 0}
    for name, value in variables.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    Path("logs").mkdir()
    Path("logs/hpc_ckpt_1.ckpt").write_text("of another run")
    handler = signal.getsignal(signal.SIGUSR1)
    assert cdvqa("fit", "stage1_bce.yaml", *fault("RecordHandler", step=4)) == 0
    assert Path("handler").read_text() == str(handler)


def test_an_interrupt_says_how_to_go_on(cdvqa: Command, capsys: pytest.CaptureFixture[str]):
    handler = signal.getsignal(signal.SIGINT)
    try:
        assert cdvqa("fit", "stage1_bce.yaml", OFTEN, *fault("Interrupt", step=4)) == 130
    finally:
        signal.signal(signal.SIGINT, handler)  # Lightning ignores it from then on
    assert last_error(capsys) == "cdvqa fit: interrupted; saved up to step 2, go on with --ckpt_path last"
    never = fault("Interrupt", step=10**6)
    assert cdvqa("fit", "stage1_bce.yaml", OFTEN, *never, "--ckpt_path=last") == 0
