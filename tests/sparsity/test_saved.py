"""The network file has the sparsity that was asked for, and run.json describes that file."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from cdvqa.callbacks import LastCheckpoint
from cdvqa.sparsity import Assignment, Group, Subnetwork, masks, reset_thresholds
from tests.sparsity.reference import zeros_asked

# Scores cross the threshold at the first step, and no regular reset falls into the run.
FAST = ["--model.sparsity.overall=0.7", "--model.sparsity.reset_every=1000", "--model.lr=0.03"]


@pytest.fixture
def parent(cdvqa: Callable[..., int]) -> str:
    assert cdvqa("fit", "stage1_bce.yaml", "--trainer.max_epochs=1") == 0
    (run,) = Path("logs/scenes/lxmert").glob("stage1*/seed0")
    return f"--model.init_from={run}"


def stage2() -> Path:
    (run,) = Path("logs/scenes/lxmert").glob("stage2*/seed0")
    return run


def accuracies(run: Path) -> list[tuple[int, float]]:
    rows = csv.DictReader((run / "metrics.csv").open())
    return [(int(row["step"]), float(row["value"])) for row in rows if row["metric"] == "val/accuracy/all"]


@pytest.mark.parametrize(
    "flags",
    [
        ["--model.selection=last", "--trainer.max_steps=4"],
        ["--trainer.max_steps=4"],
        ["--trainer.check_val_every_n_epoch=2", "--trainer.max_epochs=1"],
        ["--model.selection=last", "--trainer.limit_val_batches=0", "--trainer.max_steps=4"],
        ["--model.reset_before_evaluation=false", "--trainer.max_epochs=1"],
    ],
    ids=["last", "max_steps", "every second epoch", "no validation", "reset_before_evaluation"],
)
def test_the_file_has_the_exact_sparsity_whenever_training_ends(
    cdvqa: Callable[..., int], parent: str, flags: list[str]
):
    """The last state had drifted from its sparsity since the last reset, and was saved as it was."""
    assert cdvqa("fit", "stage2_bce.yaml", parent, *FAST, *flags) == 0
    run = stage2()
    network, record = Subnetwork.load(run / "subnetwork.safetensors"), json.loads((run / "run.json").read_text())
    zeros = {name: int((~mask).sum()) for name, mask in network.masks.items()}
    assert zeros == {name: zeros_asked("0.7", mask.numel()) for name, mask in network.masks.items()}
    parameters, total = record["parameters"], sum(mask.numel() for mask in network.masks.values())
    assert parameters["full"] - parameters["kept"] == sum(zeros.values())
    assert record["selected"]["sparsity"]["overall"] == sum(zeros.values()) / total
    validated = accuracies(run)
    assert len(validated) == ("--trainer.limit_val_batches=0" not in flags)
    if "--model.selection=last" not in flags:
        assert record["selected"]["best"] == pytest.approx(validated[0][1])


def test_run_json_describes_the_selected_state_and_not_the_last(
    cdvqa: Callable[..., int], parent: str, monkeypatch: pytest.MonkeyPatch
):
    """Under `strict` the two states differ in their number of zeros."""
    evaluated: list[dict[str, torch.Tensor]] = []  # the masks of each new best

    def reset(model: Any) -> Any:
        evaluated.append(masks(model))
        return reset_thresholds(model)

    monkeypatch.setattr("cdvqa.callbacks.selection.reset_thresholds", reset)
    flags = ["--model.tie_break=strict", "--model.reset_before_evaluation=false", "--trainer.max_epochs=3"]
    assert cdvqa("fit", "stage2_bce.yaml", parent, *FAST, *flags) == 0
    run = stage2()
    network, record = Subnetwork.load(run / "subnetwork.safetensors"), json.loads((run / "run.json").read_text())
    zeros = sum(int((~mask).sum()) for mask in network.masks.values())
    assert record["parameters"]["full"] - record["parameters"]["kept"] == zeros
    # The authors evaluate before the first step as well, and reset the thresholds after each new best.
    found = [accuracy for _, accuracy in accuracies(run)]
    assert len(found) == 4
    assert record["selected"]["best"] == pytest.approx(max(found))
    assert len(evaluated) == sum(value > max(found[:i], default=-1) for i, value in enumerate(found))
    # The mask that was evaluated is the mask that is saved, as it stands.
    assert all(torch.equal(mask, network.masks[name]) for name, mask in evaluated[-1].items())
    assert zeros != sum(int(0.7 * mask.numel()) for mask in network.masks.values())


def test_thresholds_are_reset_at_steps_and_validations_and_not_by_a_checkpoint(cdvqa: Callable[..., int], parent: str):
    """t_m counts optimiser steps, of two batches here; there are five."""
    flags = [parent, *FAST, "--model.sparsity.reset_every=2", "--trainer.max_epochs=1", "--overwrite"]
    flags += ["--trainer.accumulate_grad_batches=2", "--trainer.limit_train_batches=10"]
    logs = []
    for more in ([], ["--checkpoint_every_n_steps=1"]):
        assert cdvqa("fit", "stage2_bce.yaml", *flags, *more) == 0
        logs.append((stage2() / "metrics.csv").read_text())
    rows = [line.split(",") for line in logs[0].splitlines()]
    assert [int(row[0]) for row in rows if row[1] == "mask/threshold/mean"] == [2, 4, 5]
    assert all(float(row[2]) != 0 for row in rows if row[1] == "mask/drift/overall"), "masks move between the resets"
    assert logs[1] == logs[0]


class ByNorm(Assignment):
    """The matrix of the largest norm loses more: shares that depend on the weights."""

    def groups(self, matrices, overall):
        largest = max(matrices, key=lambda matrix: float(matrix.weight.norm()))
        return [Group([m.name], 0.9 if m is largest else overall) for m in matrices]


def test_a_resumed_run_keeps_its_groups_although_its_weights_come_later(
    cdvqa: Callable[..., int], parent: str, monkeypatch: pytest.MonkeyPatch
):
    save = LastCheckpoint.on_train_epoch_end

    def save_and_stop(self: LastCheckpoint, trainer: pl.Trainer, pl_module: Any) -> None:
        save(self, trainer, pl_module)
        raise KeyboardInterrupt

    flags = [parent, *FAST, f"--model.sparsity.assignment={__name__}.ByNorm", "--trainer.max_epochs=2"]
    with monkeypatch.context() as patch:
        patch.setattr(LastCheckpoint, "on_train_epoch_end", save_and_stop)
        assert cdvqa("fit", "stage2_bce.yaml", *flags) == 130
    assert cdvqa("fit", "stage2_bce.yaml", *flags, "--ckpt_path=last") == 0
    resumed = Subnetwork.load(stage2() / "subnetwork.safetensors").masks
    assert cdvqa("fit", "stage2_bce.yaml", *flags, "--overwrite") == 0
    whole = Subnetwork.load(stage2() / "subnetwork.safetensors").masks
    assert len({float((~mask).float().mean().round(decimals=1)) for mask in whole.values()}) > 1
    assert all(torch.equal(mask, resumed[name]) for name, mask in whole.items())
