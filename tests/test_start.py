"""What a new user meets first: a data set or weights that are not there, and a run without a terminal."""

import os
import pty
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants

from cdvqa.cli import main
from cdvqa.data.questions.text import load_tokenizer
from cdvqa.errors import InputError
from cdvqa.hub import WEIGHTS, is_local

Command = Callable[..., int]


def test_an_embedded_world_that_is_not_made_yet_is_named_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """It took 13 seconds, for a backbone was made first, and sent people to the official question files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("cdvqa.backbones.lxmert.architecture", lambda *args: pytest.fail("a backbone is made first"))
    assert main(["fit", "--config", "stage1_bce.yaml", "--config", "scenes.yaml"]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "data/scenes: no such folder; `cdvqa prepare scenes --output data/scenes` makes this data set" in said
    assert not list(tmp_path.iterdir())


def test_small_models_of_a_world_that_is_not_made_yet_are_named_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """An LXMERT-base was made, which does not take the features of a micro world."""
    monkeypatch.chdir(tmp_path)
    Path("data/scenes-micro").mkdir(parents=True)
    configs = [f"--config={name}.yaml" for name in ("stage1_bce", "scenes", "micro")]
    assert main(["fit", *configs]) == 2
    said = capsys.readouterr().err
    assert "data/scenes/lxmert: no such folder; `cdvqa prepare scenes --output data/scenes` makes this data set" in said
    Path("data/scenes-micro").rmdir()
    assert main(["fit", *configs]) == 2
    assert "`cdvqa prepare scenes --size micro --output data/scenes-micro` makes" in capsys.readouterr().err


@pytest.mark.parametrize("offline", [False, True])
def test_a_hub_that_does_not_answer_is_asked_once(monkeypatch: pytest.MonkeyPatch, offline: bool):
    """transformers asked for each of the files, again and again, for 101 seconds."""
    asked = []

    def fail(*args: object, **options: object) -> None:
        asked.append(options["timeout"])
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(HfApi, "model_info", fail)
    reason = "HF_HUB_OFFLINE is set" if offline else "nor to be fetched .Name or service not known"
    with pytest.raises(InputError, match=f"nobody/nothing: not in the Hugging Face cache.*{reason}"):
        is_local("nobody/nothing", WEIGHTS, "give a folder")
    with pytest.raises(InputError, match=r"nobody/nothing: .*--data.tokenizer PATH/vocab.txt"):
        load_tokenizer("nobody/nothing")
    assert len(asked) == (0 if offline else 2) and all(asked)


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
