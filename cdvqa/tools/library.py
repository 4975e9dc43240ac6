"""What `cdvqa.train` and `cdvqa.results` do in a notebook."""

import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from cdvqa.cli.commands import readable_error_behind
from cdvqa.cli.training import VQACLI
from cdvqa.errors import InputError
from cdvqa.studies.report.table import read_logs, runs_table


def train(config: str | Path | Sequence[str | Path], overrides: Mapping[str, Any]) -> Path:
    """See `cdvqa.train`."""
    configs = [config] if isinstance(config, str | Path) else config
    args = [word for name in configs for word in ("--config", str(name))]
    options = {name.replace("__", "."): value for name, value in overrides.items()}
    overwrite, quiet = ([f"--{name}"] if options.pop(name, False) else [] for name in ("overwrite", "quiet"))
    args += [*(f"--{name}={as_yaml(value)}" for name, value in options.items()), *quiet]
    run = run_command(["fit", *args, *overwrite])
    run_command(["test", *args])
    return run


def run_command(args: list[str]) -> Path:
    """Run `cdvqa ARGS`; return the run's folder. Errors are raised as the command line would print them."""
    try:
        with ExitStack() as held:
            return VQACLI(args, held=held).run_folder.folder
    except Exception as error:
        if cause := readable_error_behind(error):
            raise cause from error
        raise


def as_yaml(value: Any) -> str:
    """A value in one line, as an option takes it."""
    text: str = yaml.safe_dump(value, default_flow_style=True, width=float("inf"))
    return text.removesuffix("\n").removesuffix("\n...")


def results(logs: Path) -> pd.DataFrame:
    """See `cdvqa.results`."""
    if not logs.is_dir():
        raise InputError(f"{logs}: no such folder; name the one that holds the runs, such as logs")
    lines, broken = read_logs(logs)
    table, wrong = runs_table(lines)
    for problem in [*broken, *wrong]:
        warnings.warn(problem, stacklevel=3)
    return table[table["state"] == "tested"].drop(columns="line") if len(table) else table
