"""Two nodes with one process each, which see the same folders, are two processes (gloo, on this machine)."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.conftest import overlay, the_run
from tests.ending import end, errors_of
from tests.forking import free_port
from tests.test_processes import TWO, command

Command = Callable[..., int]
ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "configs" / "slurm" / "fit.sh"
SRUN = f'exec {sys.executable} -m tests.srun "$@"'
SLURM = {
    "SLURM_JOB_ID": "4711",
    "SLURM_JOB_NAME": "cdvqa",
    "SLURM_NNODES": "2",
    "SLURM_NTASKS": "2",
    "SLURM_NTASKS_PER_NODE": "1",
}


def torchrun(args: list[str]) -> None:
    """torchrun on each of two nodes that meet at the first one's address."""
    meeting = ["--nnodes=2", "--nproc_per_node=1", "--master_addr=127.0.0.1", f"--master_port={free_port()}"]
    launch = [sys.executable, "-m", "torch.distributed.run", *meeting]
    nodes = [
        subprocess.Popen(
            [*launch, f"--node_rank={rank}", "-m", "cdvqa", *args],
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        for rank in range(2)
    ]
    errors = errors_of(nodes)
    assert [node.returncode for node in nodes] == [0, 0], errors


def sbatch(args: list[str], commands: Path, srun: str = SRUN, **environment: str) -> subprocess.Popen[str]:
    """The job script, with `srun` and `scontrol` of our own on PATH."""
    commands.mkdir()
    for name, line in {"srun": srun, "scontrol": 'echo "$@" >> scontrol.txt'}.items():
        (commands / name).write_text(f"#!/bin/sh\n{line}\n")
        (commands / name).chmod(0o755)
    path = {"PATH": f"{commands}:{os.environ['PATH']}"}
    return subprocess.Popen(
        ["bash", str(SCRIPT), *args],
        env=os.environ | SLURM | path | environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_two_nodes_train_what_two_processes_train(cdvqa: Command, scenes: Path, tmp_path: Path):
    args = ["--config", "stage1_lmh.yaml", *overlay(scenes), "--trainer.max_epochs=1"]
    command("fit", *args[1:2], args[2:], *TWO)
    folder = the_run("stage1_lmh")
    alone = folder.rename("alone")
    torchrun(["fit", *args, "--trainer.strategy=ddp", "--trainer.num_nodes=2", "--trainer.devices=1"])
    by_torchrun = folder.rename("torchrun")
    job = sbatch(args, tmp_path / "bin", MASTER_PORT=free_port())
    (errors,) = errors_of([job])
    assert errors.count("Traceback") == 0 and job.returncode == 0, errors
    for run in (by_torchrun, folder):
        assert {path.name.split(".")[0] for path in run.iterdir()} == {
            path.name.split(".")[0] for path in alone.iterdir()
        }
        assert len(list(run.glob("events.out.tfevents.*"))) == 1, "only the first process writes"
        assert (run / "metrics.csv").read_text() == (alone / "metrics.csv").read_text()
        states = [torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True) for folder in (alone, run)]
        torch.testing.assert_close(states[1]["state_dict"], states[0]["state_dict"], rtol=0, atol=0)


def test_processes_with_other_settings_stop_on_all_nodes(cdvqa: Command, scenes: Path):
    port = free_port()
    nodes = []
    for rank in ("0", "1"):
        own = {"RANK": rank, "NODE_RANK": rank, "GROUP_RANK": rank, "LOCAL_RANK": "0", "WORLD_SIZE": "2"}
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "1", "LOCAL_WORLD_SIZE": "1"}
        flags = ["--trainer.strategy=ddp", "--trainer.num_nodes=2", "--trainer.devices=1", f"--model.lr=0.00{rank}1"]
        args = [sys.executable, "-m", "cdvqa", "fit", "--config", "stage1_lmh.yaml", *overlay(scenes), *flags]
        environment = os.environ | {"PYTHONPATH": str(ROOT)} | own | meeting
        nodes.append(subprocess.Popen(args, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True))
    errors = errors_of(nodes)
    assert [node.returncode for node in nodes] == [2, 2], errors
    assert all("the processes were started with other settings: they make" in error for error in errors)
    assert not list(Path().rglob("run.json"))


@pytest.mark.parametrize(
    ("restarts", "answers", "sruns", "status"),
    [
        ("0", "0", ["fresh"], 0),
        ("0", "1", ["fresh"], 1),
        ("3", "0", ["last"], 0),
        ("1", "1", ["last"], 1),
        ("1", "2 0", ["last", "fresh"], 0),  # stopped before its first checkpoint
        ("1", "2 2", ["last", "fresh"], 2),
    ],
)
def test_a_requeued_job_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restarts: str, answers: str, sruns: list[str], status: int
):
    monkeypatch.chdir(tmp_path)
    args = ["--config", "stage2_lmh.yaml", "--config", "ddp_bf16.yaml"]
    job = sbatch(args, tmp_path / "bin", SLURM_RESTART_COUNT=restarts, SRUN_EXIT=answers)
    errors = errors_of([job])
    assert job.returncode == status, errors
    lines = Path("srun.txt").read_text().splitlines()
    assert ["last" if line.endswith("--ckpt_path=last") else "fresh" for line in lines] == sruns
    for line in lines:
        own, given = line.split(" --checkpoint_every_n_steps=500 ")
        assert own == "cdvqa fit --trainer.strategy=ddp --trainer.num_nodes=2 --trainer.devices=1"
        assert given.startswith(" ".join(args)), "what is asked for comes last, and so wins"


def test_a_job_whose_time_runs_out_is_queued_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    job = sbatch([], tmp_path / "bin", srun="touch started; exec sleep 30")
    while not Path("started").exists() and job.poll() is None:
        time.sleep(0.01)
    job.send_signal(signal.SIGUSR1)
    try:
        job.wait(50)
    finally:
        end([job])
    assert Path("scontrol.txt").read_text() == "requeue 4711\n"
