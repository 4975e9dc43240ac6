"""What `cdvqa check` finds out: files that are needed, and whether they fit together."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from cdvqa.errors import InputError


@dataclass
class Item:
    """One thing that a config needs.

    Attributes:
        what: its role, such as `train questions`.
        where: the path at which it is looked for.
        source: where it may be had, one line.
        size: bytes; None while it is missing.
        problem: why it is of no use though it is there.
        holds: what was read from it.
    """

    what: str
    where: str
    source: str
    size: int | None = None
    problem: str = ""
    holds: str = ""

    @classmethod
    def file(cls, what: str, path: Path, source: str) -> "Item":
        """A file, looked for at `path`."""
        return cls(what, str(path), source, path.stat().st_size if path.is_file() else None)

    @property
    def state(self) -> str:
        if self.size is None:
            return "missing"
        return "unusable" if self.problem else "ok"


class Finding(NamedTuple):
    """Whether the files fit together in one respect, and the figures behind it."""

    sound: bool
    text: str


class Report(NamedTuple):
    """All of it."""

    items: list[Item]
    findings: list[Finding]

    @property
    def sound(self) -> bool:
        return all(item.state == "ok" for item in self.items) and all(finding.sound for finding in self.findings)


def reason(error: InputError, path: str | Path) -> str:
    """An error's text without the path, which stands beside it."""
    return str(error).removeprefix(f"{path}: ")
