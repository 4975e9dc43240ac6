"""The command line: it assembles stage, data and trainer from YAML, and nothing else."""

from cdvqa.cli.commands import main

__all__ = ["main"]
