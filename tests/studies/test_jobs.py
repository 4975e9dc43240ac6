"""The old studies' jobs and claims."""

import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cdvqa.errors import InputError
from cdvqa.runs.folder import Run
from cdvqa.studies.claims import CLAIMS, RUNS, claim_table
from cdvqa.studies.jobs import Job, pipeline_job, run_jobs
from cdvqa.studies.table import ID, OOD, gaps, named_runs, read_runs, verdict
from tests.conftest import overlay
from tests.forking import fork
from tests.studies.made_up import make_run, scored

Command = Callable[..., int]
STARTS = ("stage1_bce", "stage2_bce+lmh_mask_uniform_s70", "stage2_bce_omp_uniform_s50", "stage3_bce+lmh_omp_uniform")


def forked(arguments: list[str], **streams: Any) -> SimpleNamespace:
    """In place of `subprocess.run` of `python -m cdvqa …`."""
    return SimpleNamespace(returncode=fork(arguments[3:])[0])


def test_jobs_run_parents_first_and_keep_what_is_finished(
    cdvqa: Command, scenes: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("cdvqa.studies.jobs.subprocess", SimpleNamespace(run=forked, STDOUT=None))
    logs = Path("logs")
    world = [*overlay(scenes), "--trainer.max_epochs=1"]
    jobs = [
        pipeline_job(logs, 2, ["bce"], 0, world, method="omp"),
        pipeline_job(logs, 2, ["bce", "lmh"], 0, world, zeros=0.7),
        pipeline_job(logs, 1, ["bce"], 0, world),
        pipeline_job(logs, 3, ["bce", "lmh"], 0, world, method="omp"),
    ]
    run_jobs(jobs, at_once=2)
    done = {path.parent.name for path in logs.glob("*/*/*/seed0")}
    assert len(done) == 4 and all(any(name.startswith(start) for name in done) for start in STARTS)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("scenes lxmert stage1_bce-") and len(lines) == 4
    records = {path: path.stat().st_mtime_ns for path in logs.glob("**/run.json")}
    run_jobs(jobs, at_once=1)
    assert records == {path: path.stat().st_mtime_ns for path in logs.glob("**/run.json")}

    runs, problems = read_runs(logs)
    assert len(runs) == 4 and runs[[ID, OOD]].notna().all(axis=None) and not problems


def test_a_failing_job_names_its_log(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    job = Job(Run(Path("logs/run/seed0")), ("--config", "stage1_bce.yaml", *overlay(scenes), "--model.objective=focal"))
    with pytest.raises(InputError, match=r"run seed0: `cdvqa fit` failed \(.*'focal' is unknown.*seed0.fit.log"):
        run_jobs([job], at_once=1)


def test_claims_that_do_not_hold_are_said_not_to(tmp_path: Path):
    jobs = {name: [Job(make_run(tmp_path, name, 0, scored(50 + i)), ())] for i, name in enumerate(RUNS)}
    lines = claim_table(named_runs(jobs))
    assert len(lines) == 2 + len(CLAIMS)
    assert "| ≥ 10 | 1.00 | **does not hold here** |" in lines[2]
    assert "| > 0 | -1.00 | **does not hold here** |" in lines[4]  # the runs score 50, 51, … in the order of RUNS
    assert "| ≥ 0 | 2.00 | holds |" in lines[7]
    assert all(claim.better in RUNS and claim.worse in RUNS for claim in CLAIMS)


def test_no_worse_includes_equal_and_better_does_not(tmp_path: Path):
    jobs = {name: [Job(make_run(tmp_path, name, 0, scored(50)), ())] for name in ("a", "b")}
    equal = gaps(named_runs(jobs), "a", "b")
    assert verdict(equal, 0, more=True) == "**does not hold here**"
    assert verdict(equal, 0) == verdict(equal + 3, 3) == "holds"
    assert {claim.text for claim in CLAIMS if "no worse" in claim.text} == {
        claim.text for claim in CLAIMS if not claim.by and not claim.more
    }


@pytest.mark.parametrize("study", ["claims", "backbones", "demo"])
def test_a_study_that_cannot_go_on_says_so_in_one_line(
    study: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """It ended in a traceback."""

    def fail(folder: Path) -> None:
        raise InputError(f"{folder}: a job failed")

    monkeypatch.setattr("cdvqa.worlds.scenes.make_scenes", fail)
    monkeypatch.setattr("sys.argv", [study])
    monkeypatch.delitem(sys.modules, f"cdvqa.studies.{study}", raising=False)
    with pytest.raises(SystemExit, match="2"):
        runpy.run_module(f"cdvqa.studies.{study}", run_name="__main__")
    assert capsys.readouterr().err == f"{study}: data/scenes: a job failed\n"
