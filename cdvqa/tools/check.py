"""`cdvqa check`: every file a config needs, whether it is there and sound, and where it may be had. Fetches nothing."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from cdvqa.tools.findings import Item, Report

if TYPE_CHECKING:
    from cdvqa.tools.inspect import ConfigInspector


def run(args: list[str]) -> int:
    """Print what the config in `args` needs; return 0 if all of it is there and fits together, else 1."""
    from cdvqa.tools.inspect import ConfigInspector

    report = check(ConfigInspector(args[1:]))
    # A pipe has no width of its own: lines stay whole there.
    console = Console(markup=False, highlight=False, emoji=False, width=None if sys.stdout.isatty() else 1000)
    show(report, console)
    return 0 if report.sound else 1


def check(config: "ConfigInspector") -> Report:
    """Look at everything that `fit` with this config would read."""
    from cdvqa.tools.check_data import check_data
    from cdvqa.tools.check_model import check_start, check_tokenizer

    takes = config.model.backbone.description
    run_folder = config.run_of_config(Path(config.config_init["trainer"]["default_root_dir"])).folder
    parts = (
        check_data(config.datamodule, takes.get("visual_feat_dim")),
        check_tokenizer(config.datamodule.tokenizer_source, takes.get("vocab_size")),
        check_start(config.model, run_folder),
    )
    return Report([item for part in parts for item in part.items], [found for part in parts for found in part.findings])


def show(report: Report, console: Console) -> None:
    """Print the table of files, what was found about them, and where the missing ones may be had."""
    table = Table("file", "looked for at", "state", "size", "holds", box=None, pad_edge=False)
    for column in table.columns:
        column.overflow = "fold"
    for item in report.items:
        size = "" if item.size is None else decimal(item.size)
        table.add_row(item.what, item.where, item.state, size, item.problem or item.holds)
    console.print(table)
    if report.findings:
        console.print()
    for finding in report.findings:
        console.print(f"{'ok' if finding.sound else 'WRONG':<6}{finding.text}", soft_wrap=True)
    wanting = [item for item in report.items if item.state != "ok"]
    if wanting:
        console.print("\nmissing or unusable, and where it may be had:")
    for source, items in group_by_source(wanting).items():
        console.print(f"- {', '.join(item.what for item in items)}: {source}", soft_wrap=True)
    wrong = len(wanting) + sum(not finding.sound for finding in report.findings)
    console.print("\neverything is there and fits together" if not wrong else f"\nproblems: {wrong}")


def group_by_source(items: list[Item]) -> dict[str, list[Item]]:
    """Items that come from one place, together."""
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(item.source, []).append(item)
    return groups
