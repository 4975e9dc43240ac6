"""`cdvqa check`: every file a config needs, whether it is there and sound, and where it may be had. Fetches nothing."""

import sys
from typing import TYPE_CHECKING

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from cdvqa.tools.findings import Item, Report

if TYPE_CHECKING:
    from cdvqa.cli.inspect import ConfigInspector

DESCRIPTION = """\
List every file that a config needs: where it is looked for, whether it is there, its size and SHA-256, whether it is
sound and fits the others, and where it may be had. Takes the options of `cdvqa fit`, or those of `cdvqa predict` with
--data.questions. Fetches and writes nothing. Exit status: 0 if a run can start, 1 if something is missing or wrong,
2 if the config itself is wrong."""


def run(args: list[str]) -> int:
    """Print what the config in `args` needs; return 0 if all of it is there and fits together, else 1."""
    from cdvqa.cli.inspect import ConfigInspector

    report = check(ConfigInspector(args[1:], "cdvqa check", DESCRIPTION))
    # A pipe has no width of its own: lines stay whole there.
    console = Console(markup=False, highlight=False, emoji=False, width=None if sys.stdout.isatty() else 1000)
    show(report, console)
    return 1 if report.problems else 0


def check(config: "ConfigInspector") -> Report:
    """Look at everything that `fit` with this config would read, or `predict` where it has questions of one's own."""
    from cdvqa.tools.check_data import check_asked, check_data, check_extra_text
    from cdvqa.tools.check_features import check_features
    from cdvqa.tools.check_images import check_images
    from cdvqa.tools.check_model import check_start, check_tokenizer, find_start

    data, stage = config.datamodule, config.model
    takes, own = stage.backbone.description, data.questions_file
    image_format = stage.backbone.image_format
    visual = check_images(data, image_format) if image_format else check_features(data, takes.get("visual_feat_dim"))
    start = find_start(config, predicts=own is not None)
    parts = (
        visual.report,
        check_data(data, stage, visual.reader) if own is None else check_asked(own, visual.reader),
        *([check_extra_text(data.extra_text_file)] if data.extra_text_file else []),
        check_tokenizer(data.tokenizer_source, takes.get("vocab_size")),
        check_start(stage, start, visual.fingerprint),
    )
    return Report([item for part in parts for item in part.items], [found for part in parts for found in part.findings])


def show(report: Report, console: Console) -> None:
    """Print the table of files, what was found about them, and where the missing ones may be had."""
    table = Table(box=None, pad_edge=False)
    for name in ("file", "state", "size", "sha256"):
        table.add_column(name, no_wrap=True, justify="right" if name == "size" else "left")
    table.add_column("looked for at", overflow="fold")
    for item in report.items:
        size = "" if item.size is None else decimal(item.size)
        star = "*" * item.digest.endswith("*")
        table.add_row(item.what, item.state, size, item.digest[:12] + star, item.where)
    console.print(table)
    read = [item for item in report.items if item.problem or item.holds]
    if read or report.findings:
        console.print()
    for item in read:
        line = f"{'WRONG' if item.problem else 'ok':<6}{item.what}: {item.problem or item.holds}"
        console.print(line, soft_wrap=True)
    for finding in report.findings:
        console.print(f"{finding.state:<6}{finding.text}", soft_wrap=True)
    if report.wanting:
        console.print("\nmissing or unusable, and where it may be had:")
    for source, items in group_by_source(report.wanting).items():
        console.print(f"- {', '.join(item.what for item in items)}: {source}", soft_wrap=True)
    console.print(f"\nproblems: {report.problems}" if report.problems else "\neverything is there and fits together")


def group_by_source(items: list[Item]) -> dict[str, list[Item]]:
    """Items that come from one place, together."""
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(item.source, []).append(item)
    return groups
