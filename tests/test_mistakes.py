"""docs/mistakes.md: what it says is what is said."""

import re
import shlex
from pathlib import Path

import pytest

from cdvqa.cli import main

PAGE = Path(__file__).parents[1] / "docs" / "mistakes.md"
MISTAKES = re.findall(r"^```console\n\$ cdvqa (.*)\n(.*)\n```$", PAGE.read_text(), flags=re.M)


def test_the_page_has_at_least_25():
    assert len(MISTAKES) >= 25 and PAGE.read_text().count("```console") == len(MISTAKES)


@pytest.mark.parametrize(("command", "line"), MISTAKES, ids=[command for command, _ in MISTAKES])
def test_a_mistake_gives_one_line_with_a_remedy(
    command: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(command)) != 0
    printed = capsys.readouterr()
    assert printed.err == f"{line}\n" and printed.out == ""
    assert not list(tmp_path.iterdir()), "nothing is written"
