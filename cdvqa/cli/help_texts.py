"""What `--help` shows at once: texts that `python -m cdvqa.tools.help` makes from signatures and docstrings."""

import re
from collections.abc import Sequence
from pathlib import Path

from cdvqa.errors import InputError, nearest

TEXTS = Path(__file__).parent / "help"
TOPICS = ("preset", "trainer")
"""Options that `cdvqa fit --help TOPIC` lists."""


def help_text(args: Sequence[str]) -> str | None:
    """The text that a command line with `--help` asks for; None where it asks for none, or the command has its own.

    Raises:
        InputError: there is no such topic.
    """
    text = text_of(command_of(args))
    asked = next((index for index, word in enumerate(args) if word in ("--help", "-h")), None)
    if asked is None or text is None:
        return None
    topic = next(iter(args[asked + 1 :]), "-")
    if "{options}" not in text or topic.startswith("-"):
        return text.replace("{options}\n", text_of("options") or "")
    if topic not in TOPICS:
        raise InputError(f"--help {topic}: there are {', '.join(TOPICS)}{nearest(topic, TOPICS)}")
    return text_of(topic)


def options_of(command: str) -> list[str]:
    """The options of a command, those in topics included; none where it has no text."""
    text = text_of(command) or ""
    parts = [text, *(text_of(part) or "" for part in ("options", *TOPICS) if "{options}" in text)]
    named = re.findall(r"^ +(--[\w.]+)", "\n".join(parts), re.MULTILINE)
    own = re.findall(r"(--model\.backbone\.)\{(.*)\}", "\n".join(parts))
    return list(dict.fromkeys([*named, *(prefix + name for prefix, names in own for name in names.split(","))]))


def command_of(args: Sequence[str]) -> str:
    """The command, with what `prepare` makes, since each has options of its own."""
    return " ".join(args[:2]) if args[0] == "prepare" and text_of(" ".join(args[:2])) else args[0]


def text_of(name: str) -> str | None:
    """The stored text of a command or topic; None where there is none."""
    path = TEXTS / f"{name.replace(' ', '_')}.txt"
    return path.read_text(encoding="utf-8") if path.is_file() else None
