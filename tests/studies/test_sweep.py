"""`cdvqa sweep`: order, failures, kills, records, launchers."""

import json
import multiprocessing
import resource
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from cdvqa.cli import main
from cdvqa.runs.folder import Run
from cdvqa.studies.sweep.records import append_lines, read_lines
from tests.conftest import run_names, the_run
from tests.ending import has_ended
from tests.forking import Forked

OMP = {"method": "omp", "pipeline": ["bce", "bce+lmh"], "sparsity": 0.5}
Study = Callable[..., Path]


def results() -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in Path("logs").glob("*/*/*/*/results.json")}


def test_every_run_is_trained_and_tested_once(
    cdvqa: Callable[..., int], study: Study, capsys: pytest.CaptureFixture[str]
):
    file = study([OMP])
    assert main(["sweep", str(file), "--records", "records"]) == 0
    assert run_names() == {"stage1_bce", "stage2_bce_omp_uniform_s50", "stage3_bce+lmh_omp_uniform_s50"}
    before, out = results(), capsys.readouterr().out
    assert len(before) == 3 and out.splitlines()[0].startswith("scenes lxmert stage1_bce-")
    recorded = read_lines(Path("records/tiny_study.jsonl"))
    assert {line["run"].rpartition("-")[0] for line in recorded.values()} == run_names() - {"stage1_bce"}
    line = next(iter(recorded.values()))
    assert line["results"]["splits"]["test"]["all"] >= 0 and line["settings"]["data.name"] == "scenes"

    written = {path: path.stat().st_mtime_ns for path in Path("logs").rglob("*") if path.is_file()}
    assert main(["sweep", str(file), "--records", "records"]) == 0
    assert written == {path: path.stat().st_mtime_ns for path in Path("logs").rglob("*") if path.is_file()}
    assert read_lines(Path("records/tiny_study.jsonl")) == recorded


def test_a_teacher_is_trained_first_and_belongs_to_the_identity(
    cdvqa: Callable[..., int], study: Study, capsys: pytest.CaptureFixture[str]
):
    taught = {"teacher": {"pipeline": "lmh"}}
    mask = {"pipeline": "bce+introd", "method": "mask", "sparsity": 0.5}
    file = study([taught | {"pipeline": "introd"}, taught | mask])
    assert main(["sweep", str(file), "--records", "records", "--dry_run"]) == 0
    planned = [line.split()[3] for line in capsys.readouterr().out.splitlines() if "stage" in line]
    assert planned.index(next(name for name in planned if name.startswith("stage1_lmh"))) == 0
    assert main(["sweep", str(file), "--records", "records", "--jobs", "2"]) == 0
    assert run_names() == {"stage1_bce", "stage1_lmh", "stage1_introd", "stage2_bce+introd_mask_uniform_s50"}
    assert {path.parents[1].name for path in results()} == set(planned), "planned before any run existed"
    teacher = json.loads((the_run("stage1_lmh") / "run.json").read_text())["identity"]
    for name in run_names() - {"stage1_bce", "stage1_lmh"}:
        record = json.loads((the_run(name) / "run.json").read_text())
        assert record["settings"]["model.teacher"] == {"identity": teacher}


def test_what_is_recorded_is_not_run_again_except_as_a_parent(
    cdvqa: Callable[..., int], study: Study, capsys: pytest.CaptureFixture[str]
):
    file = study([{"pipeline": "bce"}])
    assert main(["sweep", str(file), "--records", "records", "--logs", "elsewhere"]) == 0
    assert main(["sweep", str(file), "--records", "records"]) == 0
    assert run_names() == set()
    capsys.readouterr()
    assert main(["sweep", str(file), "--records", "records", "--dry_run"]) == 0
    assert capsys.readouterr().out.startswith("recorded    scenes lxmert stage1_bce-")
    assert main(["sweep", str(file), "--records", "records", "--dry_run", "--rerun"]) == 0
    assert capsys.readouterr().out.startswith("queued ")
    file = study([{"pipeline": "bce"}, OMP | {"pipeline": "bce"}])
    assert main(["sweep", str(file), "--records", "records", "--dry_run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:2]] == ["queued", "queued"] and "2 to run" in lines[2]


def test_a_failure_ends_nothing_that_does_not_depend_on_it(
    cdvqa: Callable[..., int], study: Study, capsys: pytest.CaptureFixture[str]
):
    broken = {"model.lr": 1.0e30, "trainer.limit_train_batches": 3}  # the loss is not finite
    file = study(
        [{"pipeline": "lmh", "settings": broken}, OMP | {"settings": broken, "pipeline": "lmh"}, {"pipeline": "bce"}]
    )
    assert main(["sweep", str(file), "--jobs", "1"]) == 1
    out, err = capsys.readouterr()
    assert "tiny_study: 1 failed, 1 parent failed; see the logs" in err
    assert run_names() == {"stage1_bce", "stage1_lmh"} and len(results()) == 1
    failed = next(line for line in out.splitlines() if ": failed: " in line)
    log = Path(failed.rpartition("(log: ")[2].rstrip(")"))
    assert "not finite" in failed and log.read_text().count("cdvqa fit: ") == 2  # tried twice


def test_a_damaged_run_is_named_and_left_alone(
    cdvqa: Callable[..., int], study: Study, capsys: pytest.CaptureFixture[str]
):
    file = study([OMP | {"pipeline": "bce"}, {"pipeline": "lmh"}])
    assert main(["sweep", str(file)]) == 0
    record = Run(the_run("stage1_bce")).record
    record.write_text("{")
    Run(the_run("stage2_bce_omp_uniform_s50")).results.unlink()
    assert main(["sweep", str(file), "--records", "others"]) == 1
    out = capsys.readouterr().out
    assert f"{record}: cannot be read" in out and record.read_text() == "{"


def test_a_killed_sweep_goes_on_where_it_was(cdvqa: Callable[..., int], study: Study):
    file = study([OMP, {"pipeline": "lmh"}])
    assert main(["sweep", str(file), "--logs", "whole", "--records", "whole_records"]) == 0
    sweeping = Forked(["sweep", str(file)])
    while not list(Path("logs").glob("*/*/stage1_bce-*/seed0/run.json")):
        assert sweeping.running, sweeping.wait()
        time.sleep(0.01)
    pids = []
    for lock in Path("logs").glob("*/*/*/*/.lock"):
        with suppress(FileNotFoundError):  # its run has just ended
            pids.append(json.loads(lock.read_text() or "{}").get("pid"))
    sweeping.kill()
    sweeping.wait()
    for pid in filter(None, pids):  # the runs end with their sweep
        end = time.monotonic() + 20
        while time.monotonic() < end and not has_ended(pid):
            time.sleep(0.05)
        assert has_ended(pid)
    assert main(["sweep", str(file)]) == 0
    whole = {(line["run"], line["seed"]): line["results"] for line in lines("whole_records")}
    assert {(line["run"], line["seed"]): line["results"] for line in lines("docs/study")} == whole and len(whole) == 3


def lines(records: str) -> list[dict[str, Any]]:
    return list(read_lines(Path(records) / "tiny_study.jsonl").values())


def test_two_sweeps_share_their_runs(cdvqa: Callable[..., int], study: Study):
    file = study([OMP, {"pipeline": "lmh"}])
    both = [Forked(["sweep", str(file), "--records", f"records{number}"]) for number in range(2)]
    assert [sweep.wait()[0] for sweep in both] == [0, 0]
    assert lines("records0") and sorted(map(str, lines("records0"))) == sorted(map(str, lines("records1")))


def test_a_sweep_on_a_full_disk_goes_on_when_there_is_room(cdvqa: Callable[..., int], study: Study):
    """No file may grow beyond a part of a checkpoint's size, as on a full disk."""
    file = study([OMP])
    assert main(["sweep", str(file), "--logs", "whole", "--records", "whole_records"]) == 0
    size = next(Path("whole").glob("*/*/stage1_bce-*/seed0/checkpoints/last.ckpt")).stat().st_size
    sweeping = Forked(["sweep", str(file), "--jobs", "1"])
    resource.prlimit(sweeping.processes[0].pid, resource.RLIMIT_FSIZE, (size // 2, resource.RLIM_INFINITY))
    status, errors = sweeping.wait()
    assert status == 1 and errors.strip().splitlines()[-1].endswith("1 failed, 2 parent failed; see the logs")
    (log,) = Path("logs").glob("*/*/*/seed0.log")
    assert "File too large" in log.read_text() and not list(Path("logs").rglob("*.tmp"))
    assert main(["sweep", str(file)]) == 0
    assert [line["results"] for line in lines("docs/study")] == [line["results"] for line in lines("whole_records")]


def test_a_record_that_was_cut_off_is_left_behind(tmp_path: Path):
    path = tmp_path / "records" / "study.jsonl"
    first, second = ({"identity": "a", "seed": seed, "results": {}} for seed in range(2))
    append_lines(path, [first])
    path.write_bytes(path.read_bytes() + b'{"identity": "b", "se')
    assert list(read_lines(path)) == [("a", 0)]
    append_lines(path, [second])
    assert list(read_lines(path)) == [("a", 0), ("a", 1)]


def add_many(path: Path, name: str) -> None:
    for seed in range(400):
        append_lines(path, [{"identity": name, "seed": seed}])


def test_two_processes_that_write_the_same_records_lose_no_line(tmp_path: Path):
    """Defect: each cut off what the other had not written to its end."""
    path = tmp_path / "study.jsonl"
    both = [multiprocessing.get_context("fork").Process(target=add_many, args=(path, name)) for name in "ab"]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert len(read_lines(path)) == len(path.read_text().splitlines()) == 800


@pytest.mark.parametrize("flag", ["--jobs=0", "--jobs=-1", "--seeds=0"])
def test_counts_are_at_least_one(
    cdvqa: Callable[..., int], study: Callable[..., Path], capsys: pytest.CaptureFixture[str], flag: str
):
    """Defect: a sweep with no job at a time waited for ever."""
    assert main(["sweep", str(study([{"pipeline": "bce"}])), flag]) == 2
    assert f"cdvqa sweep: {flag.partition('=')[0]}: expected a number > 0" in capsys.readouterr().err
