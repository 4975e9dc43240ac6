"""`cdvqa completion bash`, asked as bash asks it."""

import subprocess

import pytest

from cdvqa.cli import main
from cdvqa.cli.configs import shipped_configs


@pytest.fixture(scope="module")
def script() -> str:
    from cdvqa.cli.completion import script

    return script()


def completed(script: str, *words: str) -> list[str]:
    """What bash offers for the last word."""
    line = " ".join(f"'{word}'" for word in words)
    ask = f"COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _cdvqa; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    done = subprocess.run(["bash", "-c", script + ask], capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["cdvqa", "pre"], ["predict", "prepare"]),
        (["cdvqa", "fit", "--config", "vqav"], ["vqavs.yaml"]),
        (["cdvqa", "fit", "--config", "=", "vqav"], ["vqavs.yaml"]),  # bash splits --config=vqav
        (["cdvqa", "fit", "--config", "="], sorted(path.name for path in shipped_configs())),
        (["cdvqa", "test", "--model.sparsity.o"], ["--model.sparsity.overall"]),
        (["cdvqa", "test", "--data.root", "="], []),  # a file
        (["cdvqa", "sweep", "tab"], ["table1", "table2"]),
        (["cdvqa", "prepare", "sc"], ["scenes", "scenes-vs"]),
        (["cdvqa", "prepare", "scenes", "--si"], ["--size"]),
        (["cdvqa", "prepare", "features", "--in"], ["--input"]),
        (["cdvqa", "prepare", "questions", "--data.ro"], ["--data.root"]),
        (["cdvqa", "board", "--p"], ["--port"]),
        (["cdvqa", "report", "--study", "=", "tab"], ["table1", "table2"]),
        (["cdvqa", "fit", "--help", "tr"], ["trainer"]),
    ],
)
def test_bash_completes_commands_configs_and_options(script: str, words: list[str], offered: list[str]):
    assert completed(script, *words) == offered


def test_the_shell_is_named(capsys: pytest.CaptureFixture[str]):
    assert main(["completion", "zsh"]) == 0
    assert "bashcompinit" in capsys.readouterr().out
    assert main(["completion"]) == 2
    assert "cdvqa completion: name the shell" in capsys.readouterr().err
