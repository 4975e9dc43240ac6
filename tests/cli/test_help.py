"""What `--help` shows: complete, as the parsers have it, in two screens, and at once."""

import re
import resource
import subprocess
import sys
from argparse import Action

import pytest

from cdvqa.cli import main
from cdvqa.cli.commands import COMMANDS
from cdvqa.cli.help_texts import TEXTS, TOPICS, options_of
from cdvqa.tools import help


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    """The texts as the parsers make them now, which fails at an option that has no help."""
    return help.texts()


def test_the_stored_texts_are_those_of_the_parsers(texts: dict[str, str]):
    stored = {path.stem: path.read_text(encoding="utf-8") for path in TEXTS.glob("*.txt")}
    assert stored == texts, "run `python -m cdvqa.tools.help`"


def test_an_option_without_help_is_refused():
    with pytest.raises(ValueError, match="lr has no help"):
        help.rows([Action(["--lr"], "lr")])


@pytest.mark.parametrize("command", help.CONFIGURED)
def test_help_fits_two_screens_and_shows_the_model_before_the_trainer(command: str, capsys: pytest.CaptureFixture[str]):
    assert main([*command.split(), "--config", "stage1_bce.yaml", "--help"]) == 0
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert lines[0].startswith(f"usage: cdvqa {command} ") and len(lines) <= 120 and max(map(len, lines)) <= 120
    heads = [text.index(f"\n{part}") for part in ("stage:", "objective:", "sparsity", "backbone", "data:", "trainer")]
    assert heads == sorted(heads) and "{options}" not in text


@pytest.mark.parametrize("topic", TOPICS)
def test_a_topic_lists_its_options(topic: str, capsys: pytest.CaptureFixture[str]):
    assert main(["test", "--help", topic]) == 0
    named = {"preset": "--model.warmup ", "trainer": "--trainer.val_check_interval "}
    assert named[topic] in capsys.readouterr().out
    assert main(["fit", "--help", "presets"]) == 2
    assert "--help presets: there are preset, trainer; did you mean preset?" in capsys.readouterr().err


def test_help_takes_no_time():
    """Torch alone takes seconds to import."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    commands = [*COMMANDS, *help.PREPARED]
    for command in commands:
        words = [sys.executable, "-m", "cdvqa", *command.split(), "--help"]
        assert subprocess.run(words, capture_output=True, text=True).stdout.startswith(f"usage: cdvqa {command}")
    assert (resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before) / len(commands) < 1


def test_the_options_of_a_command_include_those_of_stages_backbones_and_topics():
    known = options_of("fit")
    for option in ("model.lr", "model.sparsity.overall", "model.backbone.glove", "trainer.plugins", "model.warmup"):
        assert f"--{option}" in known
    assert "--study" in options_of("report") and "--model.lr" not in options_of("report")
    assert [option for option in known if not re.fullmatch(r"--[\w.]+", option)] == []
