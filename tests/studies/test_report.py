"""Tables, figures and the study of claims, from small runs."""

import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from cdvqa.cli import main
from cdvqa.errors import InputError
from cdvqa.files import write_json
from cdvqa.runs.folder import Run
from cdvqa.studies.claims import CLAIMS, RUNS, claim_table
from cdvqa.studies.report.convergence import convergence
from cdvqa.studies.jobs import Job, pipeline_job, run_jobs
from cdvqa.studies.table import ID, OOD, gaps, markdown, named_runs, read_runs, verdict
from tests.conftest import overlay
from tests.forking import fork

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

    assert main(["report"]) == 0
    runs, problems = read_runs(logs)
    assert len(runs) == 4 and runs[[ID, OOD]].notna().all(axis=None) and not problems
    kept = runs.set_index("run")["kept"]
    stage1, stage2, omp, _ = (next(name for name in kept.index if name.startswith(start)) for start in STARTS)
    assert kept[stage1] == 1 and kept[stage2] < kept[omp] < 1
    table = (logs / "report.md").read_text()
    assert "Models selected on: dev." in table and all(name in table for name in done)
    with Image.open(logs / "accuracy_scenes_lxmert.png") as picture:
        assert picture.width > 1000 and len(picture.convert("RGB").getcolors(1 << 24) or []) > 50


def test_a_failing_job_names_its_log(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    job = Job(Run(Path("logs/run/seed0")), ("--config", "stage1_bce.yaml", *overlay(scenes), "--model.objective=focal"))
    with pytest.raises(InputError, match=r"run seed0: `cdvqa fit` failed \(.*'focal' is unknown.*seed0.fit.log"):
        run_jobs([job], at_once=1)


def test_report_without_runs_says_what_makes_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["report", "--logs", str(tmp_path)]) == 2
    assert "no run here; `cdvqa fit --config" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def make_run(logs: Path, name: str, seed: int = 0, results: dict | None = None, **record: Any) -> Run:
    """A run folder with records alone."""
    run = Run(logs / "d" / "b" / name / f"seed{seed}")
    base = {"stage": 1, "seed": seed, "identity": name, "settings": {"model.lr": 1e-3}, "pipeline": ["bce"]}
    base |= {"sparsity": None, "finished": "now", "parameters": {"full": 100, "kept": 100}}
    write_json(run.record, base | record)
    if results is not None:
        write_json(run.results, results)
    return run


def scored(ood: float, name: str = "test", distribution: str = "ood", **more: Any) -> dict:
    return {"selection": "dev", "means": {}, "splits": {name: {"all": ood, "distribution": distribution}}} | more


def pruned(overall: float, lr: float = 1e-3, **plan: Any) -> dict[str, Any]:
    plan = {"method": "mask", "assignment": "uniform", "overall": overall, "language": overall} | plan
    settings = {"model.lr": lr, "model.sparsity.zeros.language": int(1000 * overall)}
    settings |= {f"model.sparsity.{name}": plan[name] for name in ("assignment", "scores") if name in plan}
    return {"stage": 2, "pipeline": ["bce", "lmh"], "sparsity": plan, "settings": settings}


def test_seeds_share_a_row_with_their_mean(tmp_path: Path):
    """Guards: seeds whose kept counts differ are one run."""
    for seed, (accuracy, kept) in enumerate([(40, 51), (50, 52), (60, 53)]):
        parameters = {"full": 100, "kept": kept}
        make_run(tmp_path, "r", seed, scored(accuracy), parameters=parameters)
    (row,) = markdown(read_runs(tmp_path)[0], ["data", "run"]).splitlines()[2:]
    assert [cell.strip() for cell in row.split("|")[1:-1]] == ["d", "r", "52.0 %", "3", "50.00 ± 10.00"]


def test_what_is_out_of_distribution_is_the_data_sets_own_statement(tmp_path: Path):
    """Guards: the test split of VQA v2 is in distribution; several OOD splits count by the data set's mean."""
    make_run(tmp_path, "vqa2", results=scored(70, distribution="id"))
    make_run(tmp_path, "vqavs", results=scored(30, "QT", means={"ood_mean": 20.0}))
    runs = read_runs(tmp_path)[0].set_index("run")
    assert runs.loc["vqa2", ID] == 70 and pd.isna(runs.loc["vqa2", OOD])
    assert runs.loc["vqavs", OOD] == 20


def test_a_curve_holds_runs_that_differ_in_the_overall_sparsity_alone(tmp_path: Path):
    """Guards: other shares, scores, rates or parents make another curve."""
    make_run(tmp_path, "full", results=scored(1))
    make_run(tmp_path, "slow", results=scored(1), settings={"model.lr": 1e-4})
    make_run(tmp_path, "s50", results=scored(1), **pruned(0.5))
    make_run(tmp_path, "s70", results=scored(1), **pruned(0.7))
    make_run(tmp_path, "s70-weight", results=scored(1), **pruned(0.7, scores="weight"))
    make_run(tmp_path, "L60", results=scored(1), **pruned(0.5, assignment="modality", language=0.6))
    make_run(tmp_path, "L40", results=scored(1), **pruned(0.5, assignment="modality", language=0.4))
    for parent in ("s50", "s70", "s70-weight"):
        own = pruned(float(parent[1:3]) / 100) | {"stage": 3, "settings": {"parent": {"identity": parent}}}
        make_run(tmp_path, f"further-{parent}", results=scored(1), **own)
    curve = read_runs(tmp_path)[0].set_index("run")["curve"]
    assert curve["full"] == "full (bce), lr 0.001" and curve["slow"] == "full (bce), lr 0.0001"
    assert curve["s50"] == curve["s70"] == "stage 2: bce+lmh, mask"
    assert curve["s70-weight"] == "stage 2: bce+lmh, mask, sparsity.scores weight"
    assert curve["L60"] == "stage 2: bce+lmh, mask, modality, language 60 %" != curve["L40"]
    assert curve["further-s50"] == curve["further-s70"] != curve["further-s70-weight"]


def test_forty_curves_are_drawn(tmp_path: Path):
    """Guards: the figure needs no colour of its own for each curve."""
    for number in range(40):
        make_run(tmp_path, f"r{number}", results=scored(number), settings={"model.lr": number})
    assert main(["report", "--logs", str(tmp_path)]) == 0
    with Image.open(tmp_path / "accuracy_d_b.png") as picture:
        assert picture.width > 1000


def test_report_names_what_is_untested_and_what_is_broken(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Guards: one bad file does not break the report of all runs, and no run is left out without a word."""
    make_run(tmp_path, "good", results=scored(40))
    make_run(tmp_path, "untested")
    make_run(tmp_path, "interrupted", finished=None, parameters=None)
    make_run(tmp_path, "cut", results=scored(1)).record.write_text('{"stage": 1,')
    make_run(tmp_path, "odd", results={"splits": [1]})
    assert main(["report", "--logs", str(tmp_path)]) == 0
    printed, written = capsys.readouterr().out, (tmp_path / "report.md").read_text()
    for text in (printed, written):
        assert "Not tested: d b untested seed0." in text and "Not finished: d b interrupted seed0." in text
        assert "cut/seed0/run.json: cannot be read" in text and "odd/seed0/results.json: broken" in text
    assert "| d      | b          | good" in written and "| cut" not in written


def test_report_lists_runs_and_the_settings_in_which_they_differ(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    make_run(tmp_path, "a", 0, scored(40))
    make_run(tmp_path, "a", 1)
    make_run(tmp_path, "b", settings={"model.lr": 1e-4})
    assert main(["report", "--logs", str(tmp_path), "--runs"]) == 0
    a, b = (re.sub(" +", " ", line) for line in capsys.readouterr().out.splitlines()[2:])
    assert a == "| d | b | a | 1 not tested; 0 tested | lr 0.001 |"
    assert b == "| d | b | b | 0 not tested | lr 0.0001 |"
    assert not (tmp_path / "report.md").exists()


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
