"""Two processes see what one sees (gloo, CPU)."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cdvqa.sparsity import Subnetwork
from tests.conftest import overlay, the_run
from tests.forking import fork

Command = Callable[..., int]
TWO = ["--trainer.strategy=ddp", "--trainer.devices=2"]
DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout")
STILL = [f"--model.backbone.config.{dropout}=0" for dropout in DROPOUTS]
# Masks flip by the hundred in these 24 steps, of which the last of each epoch is a smaller one.
MASKS = [
    *STILL,
    "--model.lr=0.01",
    "--model.global_batch=32",
    "--model.sparsity.reset_every=3",
    "--trainer.callbacks+=tests.witness.Witness",
]
DOUBLE = "--trainer.precision=64-true"


def command(name: str, config: str, world: list[str], *flags: str) -> None:
    """One command in one process of its own, or in two if the flags ask for two."""
    args = [name, "--config", config, *world, *flags]
    status, errors = fork(args, 2 if TWO[1] in args else 1)
    assert status == 0, errors[-2000:]


def witnessed(rank: int) -> dict[str, Any]:
    """What `Witness` wrote; the file is gone then."""
    path = Path(f"rank{rank}.pt")
    seen: dict[str, Any] = torch.load(path, weights_only=True)
    path.unlink()
    return seen


def masks(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The masks of the latest selection, one bit an entry, by matrix."""
    return {name: tensor for name, tensor in state.items() if name.endswith(".selected")}


def differing(first: dict[str, Tensor], second: dict[str, Tensor]) -> int:
    """How many entries of the masks differ."""
    differences = [first[name] ^ second[name] for name in masks(first)]
    return sum(int(bits).bit_count() for packed in differences for bits in packed)


def test_evaluation_is_right_to_the_last_question(cdvqa: Command, scenes: Path):
    # 90 and 70 questions in batches of 16: processes differ in their number of batches.
    world = [*overlay(scenes), "--data.eval_batch_size=16"]
    assert cdvqa("fit", "stage1_lmh.yaml") == 0
    assert cdvqa("fit", "stage2_lmh.yaml") == 0
    run = the_run("stage2_lmh+lmh_mask_uniform_s50")
    outcomes = []
    for flags in ([], TWO):
        command("test", "stage2_lmh.yaml", world, *flags)
        splits = json.loads((run / "results.json").read_text())["splits"]
        answers = {split: (run / "predictions" / f"{split}.json").read_text() for split in splits}
        outcomes.append((splits, answers))
    assert outcomes[0] == outcomes[1]
    assert outcomes[1][0]["test"]["n"]["all"] == 70


def test_training_on_two_processes_logs_and_keeps_one_run(cdvqa: Command, scenes: Path):
    world = overlay(scenes)
    command("fit", "stage1_lmh.yaml", world, *TWO)
    command("fit", "stage2_lmh.yaml", world, *TWO, "--model.sparsity.reset_every=2")
    run = the_run("stage2_lmh+lmh_mask_uniform_s50")
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
    """Same global batch, no dropout, fp64: sums in another order change the last digits of scores, and no mask."""
    assert cdvqa("fit", "stage1_lmh.yaml") == 0
    assert cdvqa("fit", "stage2_lmh.yaml", *MASKS, DOUBLE, "--trainer.max_epochs=1") == 0
    earlier = witnessed(0)["state"]
    assert cdvqa("fit", "stage2_lmh.yaml", *MASKS, DOUBLE, "--overwrite") == 0
    alone = witnessed(0)["state"]
    command("fit", "stage2_lmh.yaml", overlay(scenes), *MASKS, DOUBLE, *TWO, "--overwrite")
    first, second = witnessed(0), witnessed(1)

    assert differing(earlier, alone) > 1000, "masks that hardly change would agree in any case"
    assert differing(alone, first["state"]) == 0
    torch.testing.assert_close(first["state"], alone, rtol=1e-9, atol=1e-9)  # LMH's own parameters among them

    # Both processes hold the same to the last bit, though no mask and no threshold was ever sent.
    torch.testing.assert_close(second["state"], first["state"], rtol=0, atol=0)
    assert not first["sends_buffers"] and not second["sends_buffers"]
    assert not torch.equal(first["generator"], second["generator"]), "dropout must differ"


def test_gradients_exchanged_in_bf16_train_nearly_the_same_masks(cdvqa: Command, scenes: Path):
    assert cdvqa("fit", "stage1_bce.yaml") == 0
    assert cdvqa("fit", "stage2_bce.yaml", *MASKS) == 0
    alone = witnessed(0)["state"]
    command("fit", "stage2_bce.yaml", overlay(scenes), *MASKS, "--config=ddp_bf16.yaml", TWO[1], "--overwrite")
    first, second = witnessed(0)["state"], witnessed(1)["state"]
    torch.testing.assert_close(second, first, rtol=0, atol=0)
    assert 0 < differing(alone, first) < 0.01 * sum(8 * packed.numel() for packed in masks(first).values())
    assert all(tensor.dtype == torch.float32 for name, tensor in first.items() if name.endswith(".score"))
