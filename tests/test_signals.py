"""A signal ends a run on all its processes, and what it saved before can be resumed."""

from pathlib import Path

import pytest
import torch

from tests.conftest import overlay, the_run
from tests.ending import errors_of
from tests.killing import start

TWO = ["--trainer.strategy=ddp", "--trainer.devices=2", "--checkpoint_every_n_steps=2"]


@pytest.mark.parametrize(("rank", "group"), [(1, False), (1, True)])
def test_sigterm_ends_all_processes(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int, group: bool
):
    """Lightning's handler broadcast while the other process was in another collective: both waited for ever."""
    monkeypatch.chdir(tmp_path)
    fault = "--trainer.callbacks"
    flags = [f"{fault}+=tests.faults.Terminate", f"{fault}.step=4", f"{fault}.rank={rank}", f"{fault}.group={group}"]
    process = start(["fit", "--config", "stage1_bce.yaml", *overlay(scenes), *TWO, *flags])
    (errors,) = errors_of([process])
    assert process.returncode not in (0, 2) and "Traceback" not in errors, errors[-3000:]
    assert torch.load(the_run("stage1_bce") / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 2
