"""Run folders damaged by hand: each is named and left alone, and ends nothing that does not depend on it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cdvqa.cli import main
from cdvqa.runs.folder import Run
from cdvqa.runs.loggers import SELECTED_ACCURACY
from cdvqa.studies.sweep.records import read_lines
from tests.conftest import the_run

DAMAGE: list[tuple[str, Callable[[dict[str, Any]], Any] | str | None, str]] = [
    ("run.json", None, "cannot be read (No such file or directory); restore the file, or move the run's folder away"),
    ("run.json", "{", "cannot be read ("),
    ("run.json", lambda record: without(record, "finished"), "has no finished; restore the file, or move "),
    ("run.json", lambda record: without(record, "selection"), "has no selection; "),
    ("run.json", lambda record: record | {"started": None}, "started: unexpected None; "),
    ("run.json", lambda record: [record], "expected a mapping, not [{"),
    ("results.json", "{", "cannot be read ("),
    ("results.json", lambda results: [1], "expected a mapping, not [1]; "),
    ("results.json", lambda results: {"a": 1}, "has no splits; "),
    ("results.json", lambda results: {"splits": {"test": [1]}}, "test: unexpected [1]; "),
    ("results.json", lambda results: {"splits": {"test": {"all": "1"}}}, "all: unexpected '1'; "),
    ("metrics.csv", f"1,{SELECTED_ACCURACY},many\n", "cannot be read (could not convert string to float: 'many'); "),
]


def without(content: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in content.items() if key != name}


def test_a_damaged_run_is_a_failure_of_its_own(
    cdvqa: Callable[..., int], study: Callable[..., Path], capsys: pytest.CaptureFixture[str]
):
    """Defects: the sweep ended before any run, or with a traceback; or the damaged run counted as done."""
    assert main(["sweep", str(study([{"pipeline": "bce"}], seeds=[0])), "--records", "before"]) == 0
    trained, messages = Run(the_run("stage1_bce")), []
    for seed, (file, change, message) in enumerate(DAMAGE, 1):
        run = Run(Path(shutil.copytree(trained.folder, trained.folder.with_name(f"seed{seed}"))))
        run.record.write_text(json.dumps(run.read() | {"seed": seed}))
        path = run.folder / file
        text = json.dumps(change(json.loads(path.read_text()))) if callable(change) else change
        path.unlink() if text is None else path.write_text(text)
        messages.append(f"{path}: {message}")
    before = {path: path.read_bytes() for path in trained.folder.parent.glob("seed*/**/*") if path.is_file()}
    capsys.readouterr()

    last = len(DAMAGE) + 1
    assert main(["sweep", str(study([{"pipeline": "bce"}], seeds=last + 1)), "--records", "after"]) == 1
    out, err = capsys.readouterr()
    assert f"tiny_study: {len(DAMAGE)} failed; see the logs" in err
    assert [message for message in messages if f"failed: cdvqa sweep: {message}" not in out] == []
    assert before == {path: path.read_bytes() for path in before if path.is_file()}
    assert {seed for _, seed in read_lines(Path("after/tiny_study.jsonl"))} == {0, last}
    assert main(["report", "--logs", "logs", "--runs"]) == 0
    printed = capsys.readouterr().out  # without run.json a folder is no run
    assert [message for message in messages[1:] if f"left out: {message}" not in printed] == []
