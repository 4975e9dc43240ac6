"""What `cdvqa check` finds out: files that are needed, and whether they fit together."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from cdvqa.data.questions.archives import Source, digest
from cdvqa.errors import InputError

if TYPE_CHECKING:
    from cdvqa.data.datamodule import VQADataModule

WORLDS = ("scenes", "scenes-vs", "easyvqa")


@dataclass
class Item:
    """One thing that a config needs.

    Attributes:
        what: its role, such as `train questions`.
        where: the path at which it is looked for.
        source: where it may be had, one line.
        size: bytes, unpacked; None while it is missing.
        digest: SHA-256 in hexadecimal, of the unpacked file; with a star at the end where it is of a sample.
        problem: why it is of no use though it is there.
        holds: what was read from it.
    """

    what: str
    where: str
    source: str
    size: int | None = None
    digest: str = ""
    problem: str = ""
    holds: str = ""

    @classmethod
    def file(cls, what: str, path: Source, source: str) -> "Item":
        """A file, looked for at `path` and read through for its digest if it is there."""
        item = cls(what, str(path), source)
        if path.is_file():
            try:
                found = digest(path)
            except InputError as error:
                item.problem = reason(error, path)
            else:
                item.size, item.digest = found["bytes"], found["sha256"]
        return item

    @property
    def state(self) -> Literal["ok", "missing", "unusable"]:
        if self.problem:
            return "unusable"
        return "missing" if self.size is None else "ok"


class Finding(NamedTuple):
    """Whether the files fit together in one respect, and the figures behind it; a note is no mistake."""

    state: Literal["ok", "note", "WRONG"]
    text: str

    @classmethod
    def of(cls, sound: bool, text: str) -> "Finding":
        """A finding without anything between right and wrong."""
        return cls("ok" if sound else "WRONG", text)


class Report(NamedTuple):
    """All of it."""

    items: list[Item]
    findings: list[Finding]

    @property
    def wanting(self) -> list[Item]:
        """What is missing or unusable."""
        return [item for item in self.items if item.state != "ok"]

    @property
    def problems(self) -> int:
        """How many mistakes there are; with none a run can start."""
        return len(self.wanting) + sum(finding.state == "WRONG" for finding in self.findings)


def made_by(data: "VQADataModule", official: str) -> str:
    """An embedded world comes from this package, anything else from its makers."""
    if data.name in WORLDS:
        return f"`cdvqa prepare {data.name} --output {data.root}` makes this data set"
    return official


def reason(error: InputError, path: str | Source) -> str:
    """An error's text without the path, which stands beside it."""
    return str(error).removeprefix(f"{path}: ")


def blame(items: list[Item], error: InputError) -> None:
    """Make `error` the problem of that one of `items` whose path it begins with, else of the first."""
    wrong = next((item for item in items if str(error).startswith(f"{item.where}: ")), items[0])
    wrong.problem = reason(error, wrong.where)
