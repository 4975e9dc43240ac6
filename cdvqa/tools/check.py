"""`cdvqa check`: every file that a config needs, its state, and where it may be obtained."""

import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from cdvqa.data.questions.archives import Source, digest
from cdvqa.errors import InputError, printable
from cdvqa.messages import progress_bar

if TYPE_CHECKING:
    from cdvqa.cli.inspect import ConfigInspector

DESCRIPTION = """\
List every file that a config needs: its path, whether it is there, its size and SHA-256, whether it is sound and fits
the others, and where it may be obtained. Takes the options of `cdvqa fit`, or those of `cdvqa predict` with
--data.questions. Fetches and writes nothing. Exit status: 0 if a run can start, 1 if something is missing or wrong,
2 if the config itself is wrong."""


@dataclass
class Item:
    """One thing that a config needs.

    Attributes:
        what: its role, such as `train questions`.
        where: the path at which it is looked for.
        source: where it may be obtained, one line.
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

    @property
    def state(self) -> Literal["ok", "missing", "unusable"]:
        return "unusable" if self.problem else "missing" if self.size is None else "ok"


@dataclass
class Report:
    """What was found: the readers that training uses say what is wrong, and this keeps it."""

    items: list[Item] = field(default_factory=list)
    findings: list[tuple[Literal["ok", "note", "WRONG"], str]] = field(default_factory=list)
    """Whether the files fit together, a line on each respect; a note is no mistake."""

    def file(self, what: str, path: Source | None, source: str, model: str = "") -> Item:
        """Add a file that is looked for at `path`, and read it through for its digest.

        `path` is None where the hub's cache has no such file of `model`.
        """
        item = Item(what, str(path) if path else f"{model} in the Hugging Face cache", source)
        self.items.append(item)
        if path and path.is_file():
            with self.reading(item):
                found = digest(path)
                item.size, item.digest = found["bytes"], found["sha256"]
        return item

    @contextmanager
    def reading(self, *items: Item) -> Iterator[None]:
        """Record an InputError as the problem of the item whose path it begins with, else of the first item."""
        try:
            yield
        except InputError as error:
            wrong = next((item for item in items if str(error).startswith(f"{item.where}: ")), items[0])
            wrong.problem = str(error).removeprefix(f"{wrong.where}: ")

    def fits(self, text: str, check: Callable[[], Any], prefix: str = "") -> None:
        """Add `text`, or what `check` raises instead."""
        try:
            check()
        except InputError as error:
            self.findings.append(("WRONG", f"{prefix}{error}"))
        else:
            self.findings.append(("ok", text))

    @property
    def wanting(self) -> list[Item]:
        """What is missing or unusable."""
        return [item for item in self.items if item.state != "ok"]

    @property
    def problems(self) -> int:
        """How many mistakes there are; with none a run can start."""
        return len(self.wanting) + sum(state == "WRONG" for state, _ in self.findings)


def run(args: list[str]) -> int:
    """Print what the config in `args` needs; return 0 if all of it is there and fits together, else 1."""
    from cdvqa.cli.inspect import ConfigInspector

    config = ConfigInspector(args[1:], "cdvqa check", DESCRIPTION)
    with progress_bar("reading files"):
        report = check(config)
    # A pipe has no width of its own: lines stay whole there.
    console = Console(markup=False, highlight=False, emoji=False, width=None if sys.stdout.isatty() else 1000)
    show(report, console)
    return 1 if report.problems else 0


def check(config: "ConfigInspector") -> Report:
    """Look at everything that `fit` with this config would read, or `predict` where it has questions of one's own."""
    from cdvqa.tools import check_files

    data, stage, report = config.datamodule, config.model, Report()
    fingerprint = check_files.check_visual(report, data, stage.backbone)
    if data.questions_file is None:
        check_files.check_splits(report, data, stage)
    else:
        check_files.check_own_questions(report, data)
    check_files.check_texts(report, data, stage.backbone)
    check_files.check_start(report, config, fingerprint)
    if report.wanting:  # what is missing may be in them
        for path in sorted(data.root.glob("*.zip")):
            if not zipfile.is_zipfile(path):
                report.findings.append(("WRONG", f"{path}: no readable zip archive; fetch it again"))
    return report


def show(report: Report, console: Console) -> None:
    """Print the table of files, what was found about them, and where the missing ones may be obtained."""
    table = Table(box=None, pad_edge=False)
    for name in ("file", "state", "size", "sha256"):
        table.add_column(name, no_wrap=True, justify="right" if name == "size" else "left")
    table.add_column("looked for at", overflow="fold")
    for item in report.items:
        size = "" if item.size is None else decimal(item.size)
        star = "*" * item.digest.endswith("*")
        table.add_row(printable(item.what), item.state, size, item.digest[:12] + star, printable(item.where))
    console.print(table)
    read = [(i.problem, f"{i.what}: {i.problem or i.holds}") for i in report.items if i.problem or i.holds]
    found = [("WRONG" if problem else "ok", text) for problem, text in read] + report.findings
    if found:
        console.print()
    for state, text in found:
        console.print(printable(f"{state:<6}{text}"), soft_wrap=True)
    if report.wanting:
        console.print("\nmissing or unusable, and where it may be obtained:")
    for source in dict.fromkeys(item.source for item in report.wanting):
        whats = ", ".join(item.what for item in report.wanting if item.source == source)
        console.print(printable(f"- {whats}: {source}"), soft_wrap=True)
    console.print(f"\nproblems: {report.problems}" if report.problems else "\neverything is there and fits together")
