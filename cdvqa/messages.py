"""What a command says while it runs: text, one JSON object a line (`--log json`), or nothing (`--quiet`)."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

Style = Literal["text", "json", "quiet"]
_style: Style = "text"  # of this process
_has_bar = False


def speak(style: Style) -> None:
    """Use this style from now on."""
    global _style
    _style = style


def shows_bars() -> bool:
    """Whether progress bars are shown: as text, on a terminal."""
    return _style == "text" and sys.stdout.isatty()


def say(text: str, /, event: str = "message", **values: Any) -> None:
    """Print `text`; in JSON the event with its values, or with the text where it has none."""
    if _style == "json":
        print(json.dumps({"event": event, **(values or {"text": text})}, default=str), flush=True)
    elif _style == "text":
        print(text, flush=True)


def duration(seconds: float) -> str:
    """A time in words: 4.2 s, 12 min, 3.5 h."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


@contextmanager
def progress_bar(step: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """A bar with the remaining time, on a terminal only. Yields a function to call with the number that was just done.

    Args:
        step: what is done, in a few words.
        total: how much there is to do; None where nobody knows. A step within another has no bar.
    """
    from rich import progress as rich  # not worth its time where there is no bar
    from rich.console import Console

    global _has_bar
    console = Console(stderr=True)
    if _has_bar or _style != "text" or not console.is_terminal:
        yield lambda done: None
        return
    _has_bar = True
    try:
        with rich.Progress(console=console, transient=True) as bar:
            task = bar.add_task(step, total=total)
            yield lambda done: bar.advance(task, done)
    finally:
        _has_bar = False
