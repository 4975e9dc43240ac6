"""What a run prints: a header, a line per epoch and per minute, or a bar, and a summary; as text, JSON, or nothing."""

import json
import logging
import os
import pty
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from rich.console import Console

from cdvqa import messages
from cdvqa.callbacks import EpochLine
from cdvqa.callbacks.record import print_accuracies
from cdvqa.cli.log_filters import take_style
from tests.conftest import the_run

Command = Callable[..., int]


@pytest.fixture(autouse=True)
def text_again():
    yield
    take_style("text")


def test_a_training_says_what_it_is_and_what_came_of_it(
    cdvqa: Command, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
):
    with caplog.at_level(logging.INFO, "pytorch_lightning"):
        assert cdvqa("fit", "stage1_bce.yaml") == 0
        parent = the_run("stage1_bce")
        out = capsys.readouterr().out
        assert "objective bce, pipeline bce, no zeros\n" in out
        assert re.search(r"questions: 380 \(train\), 20 \(dev\); 12 steps of 64 questions\n", out)
        assert re.search(rf"\nwritten in .*: {parent}/model.safetensors, of step \d+, accuracy \d+\.\d\d on the ", out)
        assert out.endswith(f"next: cdvqa test --config {parent}/config.yaml\n")
        assert cdvqa("fit", "stage2_bce.yaml") == 0
    out = capsys.readouterr().out
    assert "pipeline bce+bce, 50 % zeros (uniform)\n" in out and f"starts from {parent}/model.safetensors\n" in out
    said = [record.getMessage() for record in caplog.records]
    assert not [text for text in said if re.search("available|stopped|estimate", text)] and len(said) > 2


def test_without_a_selection_the_summary_has_the_last_accuracy_measured(
    cdvqa: Command, capsys: pytest.CaptureFixture[str]
):
    """It had none, and json said null."""
    flags = ["--model.selection=last", "--data.dev_share=0.05"]
    assert cdvqa("fit", "stage1_bce.yaml", *flags) == 0
    assert re.search(r"of step \d+, accuracy \d+\.\d\d on the development split at step \d+\n", capsys.readouterr().out)
    assert cdvqa("fit", "stage1_bce.yaml", *flags, "--log=json", "--overwrite") == 0
    finished = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert finished["accuracy"] is not None and finished["accuracy_step"] == finished["step"]


def test_answer_types_come_in_one_order_whatever_the_data(capsys: pytest.CaptureFixture[str]):
    groups = {"all": 4, "colour": 1, "other": 1, "number": 1, "yes/no": 1}
    print_accuracies("run", {"test": {**dict.fromkeys(groups, 50.0), "n": groups, "official": {"all": 50.0}}})
    out = capsys.readouterr().out
    assert re.search("all +┃ yes/no ┃ number ┃ other ┃ colour ┃", out)


def test_the_table_of_a_test_has_the_reports_words(cdvqa: Command, capsys: pytest.CaptureFixture[str]):
    assert cdvqa("fit", "stage1_bce.yaml") == 0
    capsys.readouterr()
    assert cdvqa("test", "stage1_bce.yaml") == 0
    out = capsys.readouterr().out
    assert "┃ distribution┃" in out, "all columns fit a terminal of 80"
    assert re.search(r"│id .*│ in +│", out) and re.search(r"│test .*│ out of +│", out)
    assert out.endswith(f"written: {the_run('stage1_bce')}/results.json\nnext: cdvqa report\n")


def test_in_json_every_line_is_an_object_and_the_run_is_the_same(cdvqa: Command, capsys: pytest.CaptureFixture[str]):
    assert cdvqa("fit", "stage1_bce.yaml", "--log=json") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    events = [line["event"] for line in lines]
    assert [event for event in events if event != "log"] == ["start", "epoch", "epoch", "finished"] and "log" in events
    epoch = next(line for line in lines if line["event"] == "epoch")
    assert {"epoch", "epochs", "step", "loss", "accuracy", "seconds", "seconds_left"} < epoch.keys()
    run = the_run("stage1_bce")
    assert not re.search("^(log|quiet):", (run / "config.yaml").read_text(), re.MULTILINE)
    assert cdvqa("test", "stage1_bce.yaml", "--log=json") == 0
    tested = {line["event"]: line for line in map(json.loads, capsys.readouterr().out.splitlines())}
    results = json.loads((run / "results.json").read_text())
    assert tested["accuracies"]["splits"]["test"]["all"] == results["splits"]["test"]["all"]
    assert Path(tested["tested"]["results"]) == run / "results.json"


def test_quiet_prints_nothing_but_errors(cdvqa: Command, capfd: pytest.CaptureFixture[str]):
    assert cdvqa("fit", "stage1_bce.yaml", "--quiet") == 0
    assert capfd.readouterr().out == ""
    assert not logging.getLogger("pytorch_lightning.utilities.rank_zero").isEnabledFor(logging.INFO)
    assert cdvqa("fit", "stage1_bce.yaml", "--quiet") == 2
    assert "holds a finished run" in capfd.readouterr().err


def test_a_long_epoch_says_where_it_is(
    cdvqa: Command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(EpochLine, "EVERY", 0.0)
    assert cdvqa("fit", "stage1_bce.yaml") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    assert len(lines) == 12
    assert re.fullmatch(r"epoch 2/2, step 8: loss \d+\.\d{4}, \d+\.\d s, about \d+\.\d s left", lines[7])


@pytest.mark.parametrize(("seconds", "words"), [(4.21, "4.2 s"), (200, "3 min"), (9000, "2.5 h")])
def test_times_have_words(seconds: float, words: str):
    assert messages.duration(seconds) == words


@pytest.mark.parametrize(
    ("terminal", "style", "shown"), [(True, "text", True), (False, "text", False), (True, "json", False)]
)
def test_a_bar_is_for_a_terminal_and_for_one_step_at_a_time(
    terminal: bool,
    style: messages.Style,
    shown: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setattr(Console, "is_terminal", terminal)
    messages.speak(style)
    for _ in range(2):
        with messages.progress_bar("questions of train", 4) as advance, messages.progress_bar("within") as inner:
            advance(4)
            inner(1)
        written = capsys.readouterr().err
        assert ("questions of train" in written) == shown and "within" not in written


def test_without_a_terminal_each_epoch_is_one_line(cdvqa: Command, capsys: pytest.CaptureFixture[str]):
    assert cdvqa("fit", "stage1_bce.yaml") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    assert len(lines) == 2
    for number, line in enumerate(lines, 1):
        left = r", about \d+\.\d s left" if number == 1 else ""
        assert re.fullmatch(rf"epoch {number}/2: loss \d+\.\d{{4}}, accuracy \d+\.\d\d, \d+\.\d s{left}", line)


def screen(written: str, columns: int = 80) -> list[str]:
    """The lines of a terminal of this width, which wraps text, after what was written to it."""
    lines, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[[\d;?]*[A-Za-z]|.", written, re.DOTALL):
        if part == "\x1b[2K":
            lines[row] = ""
        elif move := re.fullmatch(r"\x1b\[(\d+)A", part):
            row = max(0, row - int(move[1]))
        elif part == "\r":
            column = 0
        elif part == "\n" or (part[0] != "\x1b" and column == columns):
            row, column = row + 1, 0
            lines += [""] * (row == len(lines))
        if part[0] not in "\x1b\r\n":
            lines[row] = lines[row][:column].ljust(column) + part + lines[row][column + 1 :]
            column += 1
    return [line.rstrip() for line in lines]


def test_the_progress_bar_erases_no_line_of_a_terminal_of_80_columns(cdvqa: Command, monkeypatch: pytest.MonkeyPatch):
    """Lightning's took three lines there, and erased two lines of other output with each refresh."""
    shown, terminal = pty.openpty()
    written: list[bytes] = []

    def read() -> None:
        with suppress(OSError):  # the other end is closed
            while part := os.read(shown, 4096):
                written.append(part)

    reader = threading.Thread(target=read)
    reader.start()
    for name, value in {"COLUMNS": "80", "LINES": "24", "TERM": "xterm"}.items():
        monkeypatch.setenv(name, value)
    with monkeypatch.context() as patch, open(terminal, "w", encoding="utf-8") as stdout:
        patch.setattr("sys.stdout", stdout)
        print("first\nlast", flush=True)
        flags = ["--trainer.callbacks+=tests.witness.Talk", "--trainer.enable_progress_bar=true"]
        assert cdvqa("fit", "stage1_bce.yaml", "--trainer.max_epochs=1", *flags) == 0
    reader.join()
    lines = screen(b"".join(written).decode())
    assert lines[:2] == ["first", "last"]
    assert "said at the end of the epoch" in lines
    (bar,) = [line for line in lines if line.startswith("Epoch 0/")]
    assert re.search(r"Epoch 0/0 .* loss: \d+\.\d\d accuracy: \d+\.\d\d", bar), bar
