"""Studies by submitit: on SLURM, for which commands on PATH stand in, and by its own local processes."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cdvqa.cli import main
from cdvqa.errors import Stopped
from cdvqa.runs.folder import Run
from cdvqa.studies.sweep.launchers import Requeued, Submitit
from cdvqa.studies.sweep.plan import Job
from cdvqa.studies.sweep.records import read_lines
from tests.conftest import run_names
from tests.forking import Forked
from tests.slurm import install

OMP = {"method": "omp", "pipeline": "bce", "sparsity": 0.5}


def test_slurm_arrays_go_on_without_their_sweep(
    cdvqa: Callable[..., int], study: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """One array for stage 1, one after it for stage 2; the sweep is killed, and a second one finds the results."""
    for name, value in install(tmp_path / "slurm").items():
        monkeypatch.setenv(name, value)
    file = study([OMP, {"pipeline": ["bce", "lmh"]}])
    sweep = ["sweep", str(file), "--launcher", "slurm", "--cluster.slurm_partition=gpu", "--jobs=1"]
    sweeping, scripts = Forked(sweep), tmp_path / "slurm" / "states" / "scripts"
    while not Path("logs/submitit/tiny_study/2_submitted.pkl").is_file():
        assert sweeping.running, sweeping.wait()
        time.sleep(0.05)
    sweeping.kill()
    second = (scripts / "2.sh").read_text()
    assert "--dependency=afterany:1" in second and "--partition=gpu" in second
    first = (scripts / "1.sh").read_text()
    assert "--array=0-1%1" in first and "--dependency" not in first
    states = [path for path in (tmp_path / "slurm" / "states").iterdir() if path.is_file()]
    end = time.monotonic() + 240
    while any(path.read_text() in ("PENDING", "RUNNING") for path in states) and time.monotonic() < end:
        time.sleep(0.1)
    assert [path.read_text() for path in states] == ["COMPLETED"] * 3
    assert run_names() == {"stage1_bce", "stage1_lmh", "stage2_bce_omp_uniform_s50"}
    assert main(sweep) == 0
    assert len(list(scripts.iterdir())) == 2 and len(read_lines(Path("docs/study/tiny_study.jsonl"))) == 3


def test_submitits_local_jobs_run_level_by_level(
    cdvqa: Callable[..., int], study: Callable[..., Path], capsys: pytest.CaptureFixture[str]
):
    """A job whose parent is not finished ends as such."""
    broken = {"model.lr": 1.0e30, "trainer.limit_train_batches": 3}  # the loss is not finite
    file = study([OMP | {"settings": broken}])
    assert main(["sweep", str(file), "--launcher", "submitit", "--cluster.timeout_min=10"]) == 1
    out, err = capsys.readouterr()
    assert "1 failed, 1 parent failed" in err and not list(Path("logs").glob("*/*/stage2*/seed0/*"))
    assert ": failed: cdvqa fit: " in out and ": parent failed: scenes lxmert stage1_bce-" in out


def test_a_later_round_depends_on_nothing_of_an_earlier_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Defect: the dependency of the last level stayed for the jobs that were tried again."""
    for name, value in install(tmp_path / "slurm").items():
        monkeypatch.setenv(name, value)
    (tmp_path / "slurm" / "bin" / "sbatch").write_text(
        f"#!/bin/sh\ncat $1 >> {tmp_path}/scripts\necho ---- >> {tmp_path}/scripts\necho Submitted batch job 7\n"
    )
    stage1 = Job(Run(Path("logs/scenes/lxmert/stage1_bce-00000000/seed0")), "0" * 64, 0, (), Path("data"))
    stage2 = replace(stage1, run=Run(Path("logs/scenes/lxmert/stage2-00000000/seed0")), parent=stage1)
    launcher = Submitit(tmp_path / "submitit", 2, "slurm", {})
    launcher.start([stage1, stage2])
    launcher.start([stage1])
    scripts = (tmp_path / "scripts").read_text().split("----")
    assert ["--dependency=afterany:7" in script for script in scripts[:3]] == [False, True, False]


def test_what_sbatch_refuses_is_reported_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name, value in install(tmp_path / "slurm").items():
        monkeypatch.setenv(name, value)
    (tmp_path / "slurm" / "bin" / "sbatch").write_text(
        "#!/bin/sh\necho 'sbatch: error: invalid partition specified: gpu' >&2\nexit 1\n"
    )
    job = Job(Run(Path("logs/scenes/lxmert/stage1_bce-00000000/seed0")), "0" * 64, 0, (), Path("data"))
    with pytest.raises(Stopped, match=r"^--launcher slurm: sbatch: error: invalid partition specified: gpu$"):
        Submitit(tmp_path / "submitit", 2, "slurm", {}).start([job])


def test_a_job_that_has_to_leave_its_node_is_repeated():
    """The same job once more, which resumes the run."""
    job = Job(Run(Path("logs/scenes/lxmert/stage1_bce-00000000/seed0")), "0" * 64, 0, (), Path("data"))
    again = Requeued().checkpoint(job)
    assert isinstance(again.function, Requeued) and again.args == (job,)


def test_a_wrong_option_of_the_cluster_is_named(
    cdvqa: Callable[..., int], study: Callable[..., Path], capsys: pytest.CaptureFixture[str]
):
    file = study([{"pipeline": "bce"}])
    assert main(["sweep", str(file), "--launcher", "submitit", "--cluster.colour=3"]) == 2
    assert "--launcher local: " in capsys.readouterr().err and not Path("logs/scenes").exists()
