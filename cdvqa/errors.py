"""The exceptions a user is meant to read: the command line prints their text without a traceback."""

from collections.abc import Iterable, Iterator
from difflib import get_close_matches


class InputError(Exception):
    """Wrong input (a file, a record, a setting). Its text is one line: what, where, and the remedy. Exit status 2."""


class Stopped(Exception):
    """Sound input, but it cannot go on: a full disk, a loss that is not finite. One line as well. Exit status 1."""


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and those it was raised from or while handling, each once: such chains can be circles."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        yield error
        error = error.__cause__ or error.__context__


def nearest(name: str, known: Iterable[str], cutoff: float = 0.65) -> str:
    """The end of a message on a wrong name: "; did you mean NAME?", or nothing where no known name is like it.

    Case does not count. `cutoff` is how like it a name must be, from 0 to 1.
    """
    spelt = {one.lower(): one for one in known if one != name}
    close = get_close_matches(name.lower(), spelt, n=1, cutoff=cutoff)
    return f"; did you mean {spelt[close[0]]}?" if close else ""


def printable(text: str, limit: int = 4000) -> str:
    """A message as one line for a terminal: control characters escaped, and the middle left out beyond `limit`."""
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return line if len(line) <= limit else f"{line[: limit // 2]} … {line[-limit // 2 :]}"
