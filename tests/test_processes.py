"""Two processes see what one sees (gloo, CPU)."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cdvqa.sparsity import Subnetwork
from tests.conftest import overlay

Command = Callable[..., int]
RUNS = Path("logs/scenes/lxmert")
TWO = ["--trainer.strategy=ddp", "--trainer.devices=2"]


def command(name: str, config: str, world: list[str], *flags: str) -> None:
    """One command in processes of its own: DDP starts the second one with the first one's arguments."""
    args = [sys.executable, "-m", "cdvqa", name, "--config", config, *world, *flags]
    done = subprocess.run(args, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("config", ["stage1_lmh.yaml", "stage2_lmh.yaml"])
def test_evaluation_is_right_to_the_last_question(cdvqa: Command, scenes: Path, config: str):
    # 90 and 70 questions in batches of 16: processes differ in their number of batches.
    world = [*overlay(scenes), "--data.eval_batch_size=16"]
    assert cdvqa("fit", "stage1_lmh.yaml") == 0
    if config.startswith("stage2"):
        assert cdvqa("fit", config) == 0
    run = next(path for path in RUNS.iterdir() if path.name.startswith(config.split("_")[0])) / "seed0"
    outcomes = []
    for flags in ([], TWO):
        command("test", config, world, *flags)
        splits = json.loads((run / "results.json").read_text())["splits"]
        answers = {split: (run / "predictions" / f"{split}.json").read_text() for split in splits}
        outcomes.append((splits, answers))
    assert outcomes[0] == outcomes[1]
    assert outcomes[1][0]["test"]["n"]["all"] == 70


def test_training_on_two_processes_logs_and_keeps_one_run(cdvqa: Command, scenes: Path):
    world = overlay(scenes)
    command("fit", "stage1_lmh.yaml", world, *TWO)
    command("fit", "stage2_lmh.yaml", world, *TWO, "--model.sparsity.reset_every=2")
    run = RUNS / "stage2_lmh+lmh_mask_uniform_s50" / "seed0"
    record = json.loads((run / "run.json").read_text())
    assert record["finished"] and record["processes"] == 2
    rows = [line.split(",") for line in (run / "metrics.csv").read_text().splitlines()[1:]]
    validations = [row for row in rows if row[1] == "val/accuracy/all"]
    assert len(validations) == 2  # one per epoch, written by one process
    for name in ("sparsity/overall", "mask/flips/overall", "mask/threshold/mean", "objective/gate"):
        assert any(row[1] == name for row in rows), name
    network = Subnetwork.load(run / "subnetwork.safetensors")
    assert all(int((~m).sum()) == int(0.5 * m.numel() + 0.5) for m in network.masks.values())
    assert list(run.glob("events.out.tfevents.*"))


def test_two_processes_train_the_masks_that_one_trains(cdvqa: Command, scenes: Path):
    """Same global batch, no dropout: the gradient is the same up to the order of a sum, and so are the masks."""
    still = ["--model.backbone.config.hidden_dropout_prob=0", "--model.backbone.config.attention_probs_dropout_prob=0"]
    world = [
        *overlay(scenes),
        *still,
        "--data.num_workers=0",
        "--trainer.max_epochs=1",
        "--model.train_classifier=false",
    ]
    command("fit", "stage1_bce.yaml", world)
    networks = []
    for flags in ([], TWO):
        command("fit", "stage2_bce.yaml", world, *flags, "--model.sparsity.reset_every=2", "--overwrite")
        networks.append(Subnetwork.load(RUNS / "stage2_bce+bce_mask_uniform_s50" / "seed0" / "subnetwork.safetensors"))
    total = sum(mask.numel() for mask in networks[0].masks.values())
    differing = sum(int((networks[0].masks[name] != mask).sum()) for name, mask in networks[1].masks.items())
    assert differing <= 0.001 * total
    unseen = [name for name in networks[0].masks if not torch.equal(networks[0].masks[name], networks[1].masks[name])]
    assert len(unseen) < len(networks[0].masks)
