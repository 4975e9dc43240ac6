"""One writer per run, and no run is lost by a command that fails."""

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cdvqa.callbacks.checkpoint import LastCheckpoint
from cdvqa.callbacks.record import RunRecord
from cdvqa.callbacks.selection import KeepSelected
from cdvqa.errors import InputError
from cdvqa.runs import lock
from cdvqa.runs.folder import Run
from cdvqa.runs.lock import RunLock, ourselves
from tests.conftest import last_error, run_names, the_run

Command = Callable[..., int]
SHORT = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=1"]


@pytest.fixture
def other() -> Iterator[int]:
    """The id of a process that lives as long as the test."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process.pid
    process.communicate(b"\n")


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def held_by(folder: Path, age: float = 0, **changes: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    path.write_text(json.dumps(ourselves() | changes))
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_a_run_that_is_being_written_is_left_alone(cdvqa: Command, other: int, capsys: pytest.CaptureFixture[str]):
    """Defect: a second `fit` called it interrupted, and `--ckpt_path last` and `--overwrite` mixed two runs."""
    assert cdvqa("fit", "stage1_bce.yaml", *SHORT) == 0
    run = the_run("stage1_bce")
    held_by(run, pid=other)
    before = content(run)
    for flags in (["fit"], ["fit", "--ckpt_path=last"], ["fit", "--overwrite"], ["test"], ["predict"]):
        assert cdvqa(flags[0], "stage1_bce.yaml", *SHORT, *flags[1:]) == 2
        error = last_error(capsys)
        assert f"{run}: process {other} on " in error and "is writing this run; wait for it or stop it" in error
        assert "(last sign of life " in error
    assert content(run) == before
    assert cdvqa("validate", "stage1_bce.yaml", *SHORT) == 0  # writes nothing


def test_an_abandoned_lock_is_taken(tmp_path: Path, other: int):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for path in (
        held_by(tmp_path / "a", pid=gone.pid),
        held_by(tmp_path / "b", age=301, pid=other),
        held_by(tmp_path / "c", age=301, host="elsewhere"),
    ):
        with RunLock(path.parent):
            assert json.loads(path.read_text()) == ourselves()
        assert not path.exists()
    for path in (
        held_by(tmp_path / "d", age=290, host="elsewhere"),
        held_by(tmp_path / "e", boot="before", pid=gone.pid),
    ):
        with pytest.raises(InputError, match="is writing this run"), RunLock(path.parent):
            pass
        assert path.exists()


def test_a_lock_shows_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert lock.BEAT == 30
    monkeypatch.setattr(lock, "BEAT", 0.01)
    with RunLock(tmp_path / "run") as held:
        os.utime(held.path, (0, 0))
        end = time.monotonic() + 10
        while held.path.stat().st_mtime == 0 and time.monotonic() < end:
            time.sleep(0.01)
        assert held.path.stat().st_mtime > 0


def test_only_folders_of_its_own_are_removed(tmp_path: Path):
    with RunLock(tmp_path / "a" / "b"):
        pass
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "kept").mkdir()
    with RunLock(tmp_path / "kept"):
        pass
    assert (tmp_path / "kept").is_dir()


def test_a_failed_overwrite_keeps_the_run(cdvqa: Command, capsys: pytest.CaptureFixture[str]):
    """Defect: `fit --overwrite` with wrong input deleted the finished run that was there."""
    assert cdvqa("fit", "stage1_bce.yaml", *SHORT) == 0
    assert cdvqa("test", "stage1_bce.yaml", *SHORT) == 0
    run = the_run("stage1_bce")
    before = content(run)
    faults = ["--data.num_answers=5", "--data.root=nowhere", "--data.features=nowhere.h5", "--model.init_from=nowhere"]
    faults += ["--data.tokenizer=nowhere"]
    for fault in [*faults, "--trainer.callbacks+=tests.runs.test_lock.nothing"]:
        assert cdvqa("fit", "stage1_bce.yaml", *SHORT, "--overwrite", fault) == 2, fault
    assert content(run) == before and run_names() == {"stage1_bce"}


def test_an_overwritten_run_is_removed_when_the_new_one_can_be_resumed(cdvqa: Command, monkeypatch: pytest.MonkeyPatch):
    assert cdvqa("fit", "stage1_bce.yaml", *SHORT) == 0
    assert cdvqa("test", "stage1_bce.yaml", *SHORT) == 0
    run = the_run("stage1_bce")
    (run / "predictions" / "note.txt").write_text("of the old run")
    old, first = content(run), "cdvqa.callbacks.checkpoint.LastCheckpoint._save"

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(first, full)
        assert cdvqa("fit", "stage1_bce.yaml", *SHORT, "--overwrite") == 1
    assert content(run) == old
    assert cdvqa("fit", "stage1_bce.yaml", *SHORT, "--overwrite") == 0
    new = {path.relative_to(run).as_posix().split(".out.")[0] for path in content(run)}
    assert new == {"config.yaml", "run.json", "metrics.csv", "model.safetensors", "checkpoints/last.ckpt", "events"}
    rows = (run / "metrics.csv").read_text().splitlines()
    assert len([row for row in rows if "val/accuracy/all" in row]) == 1, "rows of the old run are left"


def test_a_one_shot_run_that_is_killed_while_it_overwrites_another_is_not_taken_for_it(
    cdvqa: Command, monkeypatch: pytest.MonkeyPatch
):
    """Defect: the new network lay beside the record and the results of the old one."""
    assert cdvqa("fit", "stage1_bce.yaml", *SHORT) == 0
    assert cdvqa("prune") == 0
    run = the_run("stage2_bce_omp_uniform_s50")
    assert json.loads((run / "run.json").read_text())["finished"]

    def killed(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunRecord, "on_fit_end", killed)
        assert cdvqa("prune", "--overwrite") == 130
        assert json.loads((run / "run.json").read_text())["finished"] is None
        shutil.rmtree(run)
        assert cdvqa("prune") == 130
    assert not (run / "run.json").exists(), "a first run that is killed before its end starts again"
    assert cdvqa("prune") == 0


@pytest.mark.parametrize("refused", ["mkdir", "open"])
def test_logs_that_cannot_be_written_are_refused_before_anything_is_read(
    cdvqa: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], refused: str
):
    """It ended in 81 lines. Folders of others and read-only file systems refuse root too, which tests may run as."""
    own = getattr(Path, refused)

    def refuse(path: Path, *args: object, **options: object) -> object:
        if "logs" in path.parts:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return own(path, *args, **options)

    monkeypatch.setattr(Path, refused, refuse)
    monkeypatch.setattr("cdvqa.data.VQADataModule.prepare_data", lambda data: pytest.fail("data are read first"))
    assert cdvqa("fit", "stage1_bce.yaml") == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and "logs/scenes/lxmert/stage1_bce" in said[0]
    assert said[0].endswith(
        "cannot be written (Read-only file system); name another folder with --trainer.default_root_dir"
    )


def test_wrong_data_in_the_first_steps_leaves_a_folder_that_was_there(cdvqa: Command, scenes: Path):
    """Nothing is removed from a folder that this process did not create."""
    flags = ["--trainer.callbacks+=tests.faults.CutFeatures", "--trainer.callbacks.step=10"]
    assert cdvqa("fit", "stage1_bce.yaml", *SHORT, *flags) == 0
    run = the_run("stage1_bce")
    for path in content(run):
        path.unlink()
    (run / "mine.txt").write_text("mine")
    assert cdvqa("fit", "stage1_bce.yaml", *SHORT, *flags, "--data.num_answers=5") == 2
    assert list(content(run)) == [run / "mine.txt"]
    assert cdvqa("fit", "stage1_bce.yaml", *SHORT, *flags, "--overwrite") == 0
    assert (run / "mine.txt").read_text() == "mine", "a folder without a run.json holds no run to replace"


def test_processes_that_were_started_with_other_settings_all_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    callback = RunRecord(
        Run(tmp_path), "", {"identity": "a"}, KeepSelected(Run(tmp_path)), LastCheckpoint(Run(tmp_path))
    )
    callback.setup(None, None, "fit")  # type: ignore[arg-type]
    monkeypatch.setattr("cdvqa.callbacks.record.gather", lambda parts: [*parts, ("b", "elsewhere")])
    with pytest.raises(InputError, match="the processes were started with other settings: they make "):
        callback.setup(None, None, "fit")  # type: ignore[arg-type]
