"""Tables, figures and the study of claims, from small runs."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from cdvqa.cli import main
from cdvqa.errors import InputError
from cdvqa.runs.folder import Run
from cdvqa.studies.claims import CLAIMS, RUNS, claim_table
from cdvqa.studies.convergence import convergence
from cdvqa.studies.jobs import Job, pipeline_job, run_jobs
from cdvqa.studies.runs_table import ID, OOD, markdown, over_seeds, read_runs
from tests.conftest import overlay

Command = Callable[..., int]


def test_jobs_run_parents_first_and_keep_what_is_finished(cdvqa: Command, scenes: Path, capsys: pytest.CaptureFixture):
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
    assert done == {
        "stage1_bce",
        "stage2_bce_omp_uniform_s50",
        "stage2_bce+lmh_mask_uniform_s70",
        "stage3_bce+lmh_omp_uniform_s50",
    }
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("scenes lxmert stage1_bce seed0: id ") and len(lines) == 4
    records = {path: path.stat().st_mtime_ns for path in logs.glob("**/run.json")}
    run_jobs(jobs, at_once=1)
    assert records == {path: path.stat().st_mtime_ns for path in logs.glob("**/run.json")}

    assert main(["report"]) == 0
    runs = read_runs(logs)
    assert len(runs) == 8 and set(runs["place"]) == {ID, OOD}
    kept = runs.drop_duplicates("run").set_index("run")["kept"]
    assert kept["stage1_bce"] == 1
    assert kept["stage2_bce+lmh_mask_uniform_s70"] < kept["stage2_bce_omp_uniform_s50"] < 1
    table = (logs / "report.md").read_text()
    assert "Models selected on: dev." in table and all(name in table for name in done)
    with Image.open(logs / "accuracy_scenes_lxmert.png") as picture:
        assert picture.width > 1000 and len(picture.convert("RGB").getcolors(1 << 24) or []) > 50


def test_a_failing_job_names_its_log(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    job = Job(Run(Path("logs/run/seed0")), ("--config", "stage1_bce.yaml", *overlay(scenes), "--model.objective=focal"))
    with pytest.raises(InputError, match=r"run seed0: `cdvqa fit` failed \(.*unknown objective 'focal'.*seed0.fit.log"):
        run_jobs([job], at_once=1)


def test_report_without_runs_says_what_makes_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["report", "--logs", str(tmp_path)]) == 2
    assert "no tested run here; `cdvqa test --config" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def rows(accuracies: dict[int, float]) -> pd.DataFrame:
    shared = {"data": "d", "backbone": "b", "run": "r", "stage": 1, "pipeline": "bce", "method": "full"}
    shared |= {"assignment": "", "initialisation": "", "zeros": 0.0, "kept": 1.0, "place": OOD}
    return pd.DataFrame([shared | {"seed": seed, "accuracy": value} for seed, value in accuracies.items()])


def test_means_and_deviations_are_over_seeds():
    means = over_seeds(rows({0: 40.0, 1: 50.0, 2: 60.0}))
    assert means[["mean", "std", "seeds"]].to_numpy().tolist() == [[50.0, 10.0, 3]]
    assert "50.00 ± 10.00" in markdown(rows({0: 40.0, 1: 50.0, 2: 60.0}))
    assert "| 40.00 " in markdown(rows({0: 40.0}))


@pytest.mark.parametrize(
    ("losses", "accuracies", "converged"),
    [
        ([9, 8, 7, 6, 5, 4, 3, 2.5, 2.00, 1.98], [50] * 8 + [50.2, 50.6], True),
        ([9, 8, 7, 6, 5, 4, 3, 2.0, 2.00, 1.95], [50] * 10, False),
        ([9, 8, 7, 6, 5, 4, 3, 2.0, 2.0, 2.0], [50] * 8 + [50.4, 49.8], False),
    ],
)
def test_convergence_is_judged_on_the_last_fifth_of_the_mean_curves(
    tmp_path: Path, losses: list[float], accuracies: list[float], converged: bool
):
    for seed, shift in (("a", 0.5), ("b", -0.5)):
        lines = ["step,metric,value"]
        for epoch, (loss, accuracy) in enumerate(zip(losses, accuracies, strict=True)):
            lines += [f"{epoch},val/accuracy/all,{accuracy + shift}", f"{epoch},train/loss/epoch,{loss + shift}"]
        (tmp_path / seed).mkdir()
        (tmp_path / seed / "metrics.csv").write_text("\n".join(lines) + "\n")
    assert convergence([Run(tmp_path / "a"), Run(tmp_path / "b")]).converged is converged


def test_claims_that_do_not_hold_are_said_not_to(tmp_path: Path):
    table = {name: [Job(Run(tmp_path / name.replace(" ", "_")), ())] for name in RUNS}
    for i, jobs in enumerate(table.values()):
        jobs[0].run.folder.mkdir()
        jobs[0].run.results.write_text(f'{{"splits": {{"test": {{"all": {50 + i}}}}}}}')
    lines = claim_table(table)
    assert len(lines) == 2 + len(CLAIMS)
    assert "| ≥ 10 | 1.00 | **does not hold here** |" in lines[2]
    assert "| > 0 | 1.00 | holds |" in lines[6]  # the runs score 50, 51, … in the order of RUNS
    assert all(claim.better in RUNS and claim.worse in RUNS for claim in CLAIMS)
