"""Checkpoints that are cut off, of another program or of another stage are refused in one line."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.conftest import last_error, the_run

Command = Callable[..., int]


def test_a_checkpoint_that_does_not_fit_is_one_line(cdvqa: Command, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """Each of these was a traceback of torch or Lightning, in `fit` and in `test`."""
    assert cdvqa("fit", "stage1_bce.yaml") == 0
    run = the_run("stage1_bce")
    last, path = run / "checkpoints" / "last.ckpt", tmp_path / "other.ckpt"
    whole, bytes_ = torch.load(last, weights_only=True), last.read_bytes()
    damaged = {
        "no checkpoint of cdvqa, or a broken one": lambda: path.write_bytes(bytes_[: len(bytes_) // 2]),
        "no checkpoint of cdvqa, or a broken one (": lambda: path.write_text("something else"),
        "no checkpoint of cdvqa: it has no state_dict": lambda: torch.save([1, 2], path),
        "no checkpoint of cdvqa: it has no loops": lambda: torch.save({"state_dict": {}}, path),
        "it does not say which network it holds": lambda: torch.save(whole | {"network": 3}, path),
        "not a checkpoint of this config; they differ in": lambda: torch.save(whole | {"state_dict": {}}, path),
    }
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    for said, damage in damaged.items():
        damage()
        for command in ("fit", "test"):
            capsys.readouterr()
            assert cdvqa(command, "stage1_bce.yaml", f"--ckpt_path={path}") == 2, said
            line = last_error(capsys)
            assert line.startswith(f"cdvqa {command}: ") and said in line, line
    # A stage-2 run is not resumed from a checkpoint of stage 1, inside that run's folder or copied from there.
    assert cdvqa("fit", "stage2_bce.yaml", "--trainer.max_epochs=1") == 0
    path.write_bytes(bytes_)
    for given, said in {
        last: "this run has other settings",
        path: "a checkpoint of stage 1, and the config is",
    }.items():
        assert cdvqa("fit", "stage2_bce.yaml", "--trainer.max_epochs=1", f"--ckpt_path={given}") == 2
        assert said in last_error(capsys)
    assert {file: file.read_bytes() for file in before} == before
