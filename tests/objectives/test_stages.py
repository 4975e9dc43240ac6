"""Every objective on the tiny LXMERT, through all stages, a kill and two processes."""

import inspect
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cdvqa.objectives import OBJECTIVES
from tests.conftest import overlay, the_run
from tests.forking import HOLD, fork, kill_at
from tests.killing import differences
from tests.objectives.test_training import SHORT, WITNESS
from tests.test_processes import DOUBLE, STILL, TWO, command, witnessed

Command = Callable[..., int]
VARIANTS = [*OBJECTIVES, "gge mode=dq_iter", "mmbs base=lmh", "cf_vqa vision=false"]


def flags_of(variant: str, cdvqa: Command) -> list[str]:
    """The objective with an option, small branches, and a teacher where it needs one."""
    name, *options = variant.split()
    flags = [f"--model.objective={name}", *(f"--model.objective_options.{option}" for option in options)]
    if "width" in inspect.signature(OBJECTIVES[name]).parameters:
        flags.append("--model.objective_options.width=16")
    if "teacher" in OBJECTIVES[name].needs:
        assert cdvqa("fit", "stage1_lmh.yaml", "--seed_everything=7", *SHORT) == 0
        flags.append(f"--model.teacher={the_run('stage1_lmh', 7)}")
    return flags


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_trains_all_stages_and_a_killed_mask_training_resumes_to_the_same_end(
    cdvqa: Command, scenes: Path, variant: str
):
    flags, name = flags_of(variant, cdvqa), variant.split()[0]
    assert cdvqa("fit", "stage1_bce.yaml", *flags, *SHORT) == 0
    args = ["fit", "--config", "stage2_bce.yaml", *overlay(scenes), *flags, f"--model.parent_objective={name}"]
    args += ["--model.global_batch=16", "--model.sparsity.reset_every=3", "--model.lr=0.01", "--trainer.max_epochs=1"]
    args += ["--trainer.limit_train_batches=12", "--checkpoint_every_n_steps=4", HOLD]
    assert fork(args)[0] == 0
    folder = the_run(f"stage2_{name}+{name}_mask_uniform_s50")
    whole = folder.rename("whole")
    kill_at(args, folder, 5)
    assert fork([*args, "--ckpt_path=last"])[0] == 0
    assert differences(whole, folder) == []
    pipeline = f"--model.parent_objective={name}+{name}"
    assert cdvqa("fit", "stage3_bce.yaml", *flags, pipeline, *SHORT) == 0
    assert cdvqa("test", "stage3_bce.yaml", *flags, pipeline, *SHORT) == 0


@pytest.mark.parametrize("variant", VARIANTS)
def test_two_processes_train_as_one(cdvqa: Command, scenes: Path, variant: str):
    flags = [*flags_of(variant, cdvqa), *STILL, DOUBLE, WITNESS, "--model.global_batch=32", "--model.warmup=0", *SHORT]
    flags += ["--trainer.limit_val_batches=0"]
    assert cdvqa("fit", "stage1_bce.yaml", *flags) == 0
    alone = witnessed(0)["state"]
    command("fit", "stage1_bce.yaml", overlay(scenes), *flags, *TWO, "--overwrite")
    for rank in range(2):
        torch.testing.assert_close(witnessed(rank)["state"], alone, rtol=1e-10, atol=1e-10)
