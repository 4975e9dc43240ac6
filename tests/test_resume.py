"""A run that is killed and resumed ends as if nothing had happened."""

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cdvqa.runs.folder import Run
from tests.conftest import CONF, last_error, overlay, the_run
from tests.forking import HOLD, fork, kill_at
from tests.killing import differences

Command = Callable[..., int]
RUNS = Path("logs/scenes/lxmert")
STEPS = 24  # optimiser steps of an epoch
STAGES = {
    1: ("stage1_lmh", ["--config", "stage1_lmh.yaml"]),
    2: (
        "stage2_lmh+lmh_mask_uniform_s50",
        ["--config", "stage2_lmh.yaml", "--config", str(CONF / "tiny_masks.yaml")],
    ),
    3: ("stage3_lmh+lmh+lmh_mask_uniform_s50", ["--config", "stage3_lmh.yaml"]),
}
SETTINGS = {
    "at the ends of epochs": [],
    "every 4 steps": ["--checkpoint_every_n_steps=4"],
    "every 4 steps of 2 batches, some of them validated": [
        "--checkpoint_every_n_steps=4",
        "--trainer.accumulate_grad_batches=2",
        "--trainer.val_check_interval=8",
    ],
}


@pytest.mark.parametrize(
    ("stage", "settings"),
    [
        (1, "at the ends of epochs"),
        (2, "every 4 steps of 2 batches, some of them validated"),
        (3, "every 4 steps"),
    ],
)
def test_a_killed_run_resumes_to_the_same_end(cdvqa: Command, scenes: Path, stage: int, settings: str):
    for earlier in range(1, stage):
        assert cdvqa("fit", *STAGES[earlier][1][1::2], "--trainer.max_epochs=1") == 0
    name, configs = STAGES[stage]
    if stage == 1:  # views of the questions depend on the epoch
        name, configs = "stage1_Orderless", [*configs, "--model.objective=tests.extending.view.Orderless"]
    args = ["fit", *configs, *overlay(scenes), "--model.global_batch=16", "--trainer.max_epochs=3"]
    args += [*SETTINGS[settings], HOLD]
    assert fork(args)[0] == 0
    folder = the_run(name)
    whole = folder.rename("whole")
    kill_at(args, folder, STEPS + 9)
    step = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    assert STEPS <= step < 3 * STEPS and (settings == "at the ends of epochs") == (step % STEPS == 0)
    assert fork([*args, "--ckpt_path=last"])[0] == 0
    assert differences(whole, folder) == []


def test_a_killed_run_on_augmented_pictures_resumes_to_the_same_end(cdvqa: Command, scenes: Path):
    """mPLUG: random crops, answers in word pieces, and scores that start from the weights."""
    assert cdvqa("fit", "stage1_ce.yaml", "mplug.yaml", "--trainer.max_epochs=1") == 0
    configs = ["stage2_ce.yaml", str(CONF / "mplug.yaml"), str(CONF / "tiny_masks.yaml")]
    args = ["fit", "--config", configs[0], *overlay(scenes), "--config", configs[1], "--config", configs[2]]
    args += ["--model.global_batch=16", "--model.sparsity.scores=weight", "--data.augmentation=mplug"]
    args += ["--data.num_workers=1", "--checkpoint_every_n_steps=4", HOLD]
    assert fork(args)[0] == 0
    folder = the_run("stage2_ce+ce_mask_uniform_s50_weight", runs="logs/scenes/mplug")
    whole = folder.rename("whole")
    kill_at(args, folder, 9)
    assert 8 <= torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] < 2 * STEPS
    assert fork([*args, "--ckpt_path=last"])[0] == 0
    assert differences(whole, folder) == []


def test_two_killed_processes_resume_to_the_same_end(cdvqa: Command, scenes: Path):
    """Each has its own questions and its own dropout."""
    args = ["fit", "--config", "stage1_lmh.yaml", *overlay(scenes), "--model.global_batch=16"]
    args += ["--trainer.strategy=ddp", "--trainer.devices=2", "--checkpoint_every_n_steps=4", HOLD]
    assert fork(args, 2)[0] == 0
    folder = the_run("stage1_lmh")
    whole = folder.rename("whole")
    kill_at(args, folder, 9, processes=2)
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["global_step"] >= 8
    first, second = (states["cpu"] for states in state["generators"])
    assert not torch.equal(first, second)
    assert fork([*args, "--ckpt_path=last"], 2)[0] == 0
    assert differences(whole, folder) == []


@pytest.mark.parametrize("pattern", ["structured", "2:4"])
def test_two_killed_processes_resume_to_the_same_patterned_masks(cdvqa: Command, scenes: Path, pattern: str):
    """The scores of units are sums of gradients over both processes, and 2:4 keeps its masks between resets."""
    assert cdvqa("fit", "stage1_bce.yaml", "--trainer.max_epochs=1") == 0
    args = ["fit", "--config", "stage2_bce.yaml", *overlay(scenes), "--model.global_batch=16"]
    args += [f"--model.sparsity.pattern={pattern}", "--model.sparsity.reset_every=3", "--model.lr=0.01"]
    args += ["--trainer.strategy=ddp", "--trainer.devices=2", "--checkpoint_every_n_steps=4", HOLD]
    assert fork(args, 2)[0] == 0
    folder = the_run(f"stage2_bce+bce_mask_uniform_s50_{pattern}")
    whole = folder.rename("whole")
    kill_at(args, folder, 9, processes=2)
    assert fork([*args, "--ckpt_path=last"], 2)[0] == 0
    assert differences(whole, folder) == []


def test_what_is_killed_before_its_first_checkpoint_starts_anew(
    cdvqa: Command, scenes: Path, capsys: pytest.CaptureFixture[str]
):
    held = ["fit", "--config", "stage1_bce.yaml", *overlay(scenes), HOLD, "--trainer.callbacks.step=1"]
    assert fork(held, kill_when=lambda: any(RUNS.glob("*/seed0/config.yaml")))[0] == -signal.SIGKILL
    folder = the_run("stage1_bce")
    assert not Run(folder).finished
    (folder / "run.json").unlink(missing_ok=True)  # where the signal came late
    assert cdvqa("fit", "stage1_bce.yaml", HOLD, "--ckpt_path=last") == 2
    assert last_error(capsys).endswith("there is no run of stage 1 with seed 0; `cdvqa fit` makes one")
    assert cdvqa("fit", "stage1_bce.yaml", HOLD) == 0
    assert json.loads((folder / "run.json").read_text())["finished"]


@pytest.mark.parametrize("selection", ["dev", "last"])
def test_what_is_killed_after_its_last_checkpoint_is_finished(cdvqa: Command, selection: str):
    flags = ["stage1_bce.yaml", f"--model.selection={selection}"]
    assert cdvqa("fit", *flags) == 0
    folder = the_run("stage1_bce")
    whole = shutil.copytree(folder, "whole")
    record, network, leftover = folder / "run.json", folder / "model.safetensors", folder / "run.json.7.tmp"
    finished = json.loads(record.read_text())
    started = {key: value for key, value in finished.items() if key not in ("steps", "selected", "parameters")}
    record.write_text(json.dumps(started | {"finished": None}))
    leftover.write_text("{")
    if selection == "last":
        network.unlink()
    assert "hp/val_accuracy" in (folder / "metrics.csv").read_text().splitlines()[-1]
    assert cdvqa("fit", *flags, "--ckpt_path=last") == 0
    assert differences(Path(whole), folder) == [] and not leftover.exists()


def test_what_is_killed_before_its_last_validation_is_validated(cdvqa: Command):
    """Defect: the state that was resumed at its last step was kept without being validated."""
    flags = ["stage1_bce.yaml", "--model.selection=last", "--trainer.check_val_every_n_epoch=2"]
    assert cdvqa("fit", *flags, "--trainer.max_epochs=1") == 0
    folder = the_run("stage1_bce")
    whole = shutil.copytree(folder, "whole")
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(record | {"finished": None}))
    (folder / "model.safetensors").unlink()
    assert "val/accuracy/all" in (folder / "metrics.csv").read_text()
    assert cdvqa("fit", *flags, "--trainer.max_epochs=1", "--ckpt_path=last") == 0
    assert differences(Path(whole), folder) == []


def test_an_interrupted_run_is_neither_restarted_nor_used(cdvqa: Command, capsys: pytest.CaptureFixture[str]):
    assert cdvqa("fit", "stage1_bce.yaml") == 0
    record = the_run("stage1_bce") / "run.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"finished": None}))
    assert cdvqa("fit", "stage1_bce.yaml") == 2
    assert "holds an interrupted run (go on with --ckpt_path last); replace it with --overwrite" in last_error(capsys)
    assert cdvqa("fit", "stage2_bce.yaml") == 2
    assert (
        "this run is not finished; finish it with `cdvqa fit --config stage1_bce.yaml --ckpt_path last`"
        in last_error(capsys)
    )


def test_a_missing_checkpoint_is_an_error_not_a_restart(cdvqa: Command, capsys: pytest.CaptureFixture[str]):
    assert cdvqa("fit", "stage1_bce.yaml", "--ckpt_path=last") == 2
    assert "there is no run of stage 1 with seed 0" in last_error(capsys)
    assert not RUNS.exists()


def test_a_deleted_checkpoint_is_an_error_not_a_restart(cdvqa: Command, capsys: pytest.CaptureFixture[str]):
    assert cdvqa("fit", "stage1_bce.yaml") == 0
    (the_run("stage1_bce") / "checkpoints" / "last.ckpt").unlink()
    assert cdvqa("fit", "stage1_bce.yaml", "--ckpt_path=last") == 2
    assert last_error(capsys).endswith("last.ckpt: nothing to go on from; replace the run with --overwrite")


def test_a_run_killed_before_its_first_epoch_ends_goes_on_from_step_0(cdvqa: Command, scenes: Path):
    args = ["fit", "--config", "stage1_lmh.yaml", *overlay(scenes), "--model.global_batch=2"]
    args += ["--trainer.max_epochs=1", HOLD]
    assert fork(args)[0] == 0
    folder = the_run("stage1_lmh")
    whole = folder.rename("whole")
    kill_at(args, folder, 1)
    assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 0
    assert fork([*args, "--ckpt_path=last"])[0] == 0
    assert differences(whole, folder) == []


def test_overwrite_replaces_a_run_whole(cdvqa: Command, capsys: pytest.CaptureFixture[str]):
    assert cdvqa("fit", "stage1_bce.yaml") == 0
    assert cdvqa("test", "stage1_bce.yaml") == 0
    assert cdvqa("fit", "stage1_bce.yaml") == 2
    assert "holds a finished run; replace it with --overwrite" in last_error(capsys)
    assert cdvqa("fit", "stage1_bce.yaml", "--overwrite") == 0
    folder = the_run("stage1_bce")
    assert not (folder / "results.json").exists() and (folder / "model.safetensors").is_file()
    assert "overwrite" not in (folder / "config.yaml").read_text()
