"""`cdvqa report`: the results under a logs folder as a table and a figure."""

from jsonargparse import auto_cli


def run(args: list[str]) -> None:
    """Run `cdvqa report` with command-line arguments."""
    from cdvqa.studies.report import report

    auto_cli(report, args=args[1:], prog="cdvqa report")
