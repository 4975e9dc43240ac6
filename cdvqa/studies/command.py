"""Command lines and pages of studies over several seeds."""

import argparse
from pathlib import Path

from cdvqa.files import write_atomically


def study_parser(description: str | None) -> argparse.ArgumentParser:
    """`--seeds` and `--jobs`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    return parser


def publish(report: str, path: Path) -> None:
    """Write a report in Markdown and print it."""
    with write_atomically(path) as temporary:
        temporary.write_text(report, encoding="utf-8")
    print(report)
