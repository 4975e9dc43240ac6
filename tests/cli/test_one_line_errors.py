"""What can go wrong anywhere ends in one line too: memory, disks, depth, control characters in names."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cdvqa.cli import main
from cdvqa.errors import InputError
from tests.conftest import last_error

Command = Callable[..., int]
RESET = RuntimeError("[gloo/transport/tcp/pair.cc:537] Read error [127.0.0.1]:46979: Connection reset by peer.")


@pytest.mark.parametrize(
    ("raised", "status", "said"),
    [
        (MemoryError("Unable to allocate 4 GiB"), 1, "not enough memory (Unable to allocate 4 GiB); take smaller"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 1, "not enough memory ("),
        (RecursionError("maximum recursion depth exceeded"), 2, "the input is nested too deeply"),
        *((OSError(n, os.strerror(n), "logs/x"), 1, f"logs/x: {os.strerror(n)}") for n in (errno.EROFS, errno.EACCES)),
        *((OSError(n, os.strerror(n), "logs/x"), 1, f"logs/x: {os.strerror(n)}") for n in (errno.ESTALE, errno.EIO)),
        (RESET, 1, "another process of this run has ended"),
        (InputError("a\x1b[31m\nb\x00"), 2, r"a\x1b[31m\nb\x00"),
        (InputError("x" * 100_000), 2, "xx … xx"),
    ],
)
def test_every_failure_is_one_line_of_bounded_length(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], raised: Exception, status: int, said: str
):
    """These ended in a traceback, or printed what a terminal obeys."""

    def fail(name: str) -> None:
        raise ValueError("wrapped by a parser") from raised

    monkeypatch.setattr("cdvqa.cli.commands.command", fail)
    assert main(["fit"]) == status
    error = capsys.readouterr().err
    assert error.startswith("cdvqa fit: ") and said in error
    assert error.count("\n") == 1 and len(error) < 5000 and error.strip().isprintable()


def test_a_defect_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch):
    def fail(name: str) -> None:
        raise AssertionError("a defect")

    monkeypatch.setattr("cdvqa.cli.commands.command", fail)
    with pytest.raises(AssertionError, match="a defect"):
        main(["fit"])


def test_a_log_folder_that_cannot_be_made_is_named(cdvqa: Command, capsys: pytest.CaptureFixture[str]):
    """It ended in 81 lines."""
    Path("file").touch()
    assert cdvqa("fit", "stage1_bce.yaml", "--trainer.default_root_dir=file/logs") in (1, 2)
    said = last_error(capsys)
    assert said.startswith("cdvqa fit: ") and "file/logs" in said and "Not a directory" in said
