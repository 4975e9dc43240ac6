"""A run that is killed and resumed ends as if nothing had happened."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cdvqa.sparsity import Subnetwork
from tests.conftest import CONF, overlay

Command = Callable[..., int]
RUNS = Path("logs/scenes/lxmert")
STAGES = {
    1: ("stage1_lmh", ["--config", "stage1_lmh.yaml"]),
    2: (
        "stage2_lmh+lmh_mask_uniform_s50",
        ["--config", "stage2_lmh.yaml", "--config", str(CONF / "tiny_masks.yaml")],
    ),
    3: ("stage3_lmh+lmh+lmh_mask_uniform_s50", ["--config", "stage3_lmh.yaml"]),
}


def fit_in_process(args: list[str], kill_after: Path | None = None, holding: str = "val/accuracy/all") -> int:
    """Run `cdvqa fit` in a process of its own; kill -9 it once the file `kill_after` holds the given text."""
    command = [sys.executable, "-m", "cdvqa", "fit", *args]
    process = subprocess.Popen(command, env=os.environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while kill_after is not None and process.poll() is None:
        if kill_after.is_file() and holding in kill_after.read_text():
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.005)
    process.communicate()
    return process.returncode


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_killed_run_resumes_to_the_same_end(cdvqa: Command, scenes: Path, stage: int):
    for earlier in range(1, stage):
        assert cdvqa("fit", *STAGES[earlier][1][1::2], "--trainer.max_epochs=1") == 0
    name, configs = STAGES[stage]
    args = [*configs, *overlay(scenes), "--trainer.max_epochs=12"]
    assert fit_in_process(args) == 0
    whole = (RUNS / name / "seed0").rename("whole")
    assert fit_in_process(args, kill_after=RUNS / name / "seed0" / "metrics.csv") == -signal.SIGKILL
    run = RUNS / name / "seed0"
    assert json.loads((run / "run.json").read_text())["finished"] is None
    assert fit_in_process([*args, "--ckpt_path=last"]) == 0

    assert (run / "metrics.csv").read_text() == (whole / "metrics.csv").read_text()
    file = "model.safetensors" if stage == 1 else "subnetwork.safetensors"
    first, second = Subnetwork.load(whole / file), Subnetwork.load(run / file)
    torch.testing.assert_close(second.state, first.state, rtol=0, atol=0)
    assert all(torch.equal(second.masks[key], mask) for key, mask in first.masks.items())
    last = [torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True) for folder in (whole, run)]
    torch.testing.assert_close(last[1]["state_dict"], last[0]["state_dict"], rtol=0, atol=0)


def test_an_interrupted_run_is_neither_restarted_nor_used(cdvqa: Command, capsys: pytest.CaptureFixture[str]):
    assert cdvqa("fit", "stage1_bce.yaml") == 0
    record = RUNS / "stage1_bce" / "seed0" / "run.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"finished": None}))
    assert cdvqa("fit", "stage1_bce.yaml") == 2
    assert "holds an interrupted run (go on with --ckpt_path last); replace it with --overwrite" in error(capsys)
    assert cdvqa("fit", "stage2_bce.yaml") == 2
    assert "this run is not finished; finish it with `cdvqa fit --config stage1_bce.yaml --ckpt_path last`" in error(
        capsys
    )


def test_a_missing_checkpoint_is_an_error_not_a_restart(cdvqa: Command, capsys: pytest.CaptureFixture[str]):
    assert cdvqa("fit", "stage1_bce.yaml", "--ckpt_path=last") == 2
    assert "nothing to go on from" in error(capsys)
    assert not RUNS.exists()


def test_a_run_killed_before_its_first_epoch_ends_goes_on_from_step_0(cdvqa: Command, scenes: Path):
    args = ["--config", "stage1_lmh.yaml", *overlay(scenes), "--model.global_batch=2", "--trainer.max_epochs=1"]
    assert fit_in_process(args) == 0
    run = RUNS / "stage1_lmh" / "seed0"
    whole = run.rename("whole")
    assert fit_in_process(args, kill_after=run / "metrics.csv", holding="train/loss/total") == -signal.SIGKILL
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["global_step"] == 0
    assert fit_in_process([*args, "--ckpt_path=last"]) == 0
    assert (run / "metrics.csv").read_text() == (whole / "metrics.csv").read_text()
    torch.testing.assert_close(
        Subnetwork.load(run / "model.safetensors").state,
        Subnetwork.load(whole / "model.safetensors").state,
        rtol=0,
        atol=0,
    )


def test_overwrite_replaces_a_run_whole(cdvqa: Command, capsys: pytest.CaptureFixture[str]):
    assert cdvqa("fit", "stage1_bce.yaml") == 0
    assert cdvqa("test", "stage1_bce.yaml") == 0
    assert cdvqa("fit", "stage1_bce.yaml") == 2
    assert "holds a finished run; replace it with --overwrite" in error(capsys)
    assert cdvqa("fit", "stage1_bce.yaml", "--overwrite") == 0
    run = RUNS / "stage1_bce" / "seed0"
    assert not (run / "results.json").exists() and (run / "model.safetensors").is_file()
    assert "overwrite" not in (run / "config.yaml").read_text()


def error(capsys: pytest.CaptureFixture[str]) -> str:
    """The last line of stderr: what the user reads."""
    return capsys.readouterr().err.strip().splitlines()[-1]
