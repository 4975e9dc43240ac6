"""What a sweep shows while it runs."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from cdvqa.files import write_json
from cdvqa.runs.folder import Run
from cdvqa.runs.lock import ourselves
from cdvqa.studies.sweep.body import DONE, FAILED, PARENT_FAILED
from cdvqa.studies.sweep.plan import Job
from cdvqa.studies.sweep.progress import Progress

NAMES = ("stage1_bce-00000000", "stage2_bce_omp_uniform_s50-00000000", "stage2_bce+bce_mask_uniform_s50-00000000")


def jobs(folder: Path) -> list[Job]:
    runs = [Run(folder / "scenes" / "lxmert" / name / f"seed{seed}") for seed in range(2) for name in NAMES]
    return [Job(run, run.folder.parent.name, int(run.folder.name[-1]), (), Path("data")) for run in runs]


def finish(job: Job, minutes: int, accuracy: float = 50) -> None:
    times = {"started": "2026-11-26T10:00:00+00:00", "finished": f"2026-11-26T10:{minutes:02}:00+00:00"}
    record = {"stage": 1, "settings": {}, "pipeline": ["bce"], "sparsity": None, "selection": "dev"}
    write_json(job.run.record, record | {"identity": job.identity, "seed": job.seed} | times)
    write_json(job.run.results, {"splits": {"test": {"all": accuracy}}})


def shown(progress: Progress) -> str:
    console = Console(width=400, force_terminal=False)
    with console.capture() as capture:
        console.print(progress.table())
    return capture.get()


def test_the_table_shows_what_runs_what_failed_and_when_it_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    everything = jobs(tmp_path)
    first, omp, mask, second, _, mask1 = everything
    finish(first, 10)
    with Progress(everything, [first], at_once=2) as progress:
        # Five runs of a kind that took ten minutes, or of none that is known, two at a time.
        assert "1 done, 5 queued; about 25 min left" in shown(progress)
        finish(omp, 0)
        mask.log.parent.mkdir(parents=True)
        mask.log.write_text("reading\ncdvqa fit: the loss is not finite\n\n")
        progress.show({omp: DONE, mask: FAILED, mask1: PARENT_FAILED})
        second.run.folder.mkdir(parents=True)
        (second.run.folder / ".lock").write_text(json.dumps(ourselves()))
        second.run.metrics.write_text("4,train/loss/epoch,3.5\n4,val/accuracy/all,61.25\n9,val/accuracy/all,")
        table = shown(progress)
    assert "2 done, 1 failed, 1 parent failed, 1 running, 1 queued; about 5 min left" in table
    assert "scenes lxmert stage1_bce-00000000 seed1" in table and "epoch 1, dev 61.25" in table
    assert f"failed: {mask.log}" in table.replace("\n", "")
    out = capsys.readouterr().out
    assert "stage2_bce_omp_uniform_s50-00000000 seed0: test 50.00" in out
    assert f"failed: cdvqa fit: the loss is not finite (log: {mask.log})" in out
