"""cdvqa: compress and debias vision-language models for visual question answering.

Three functions for notebooks; the rest is the command line, `cdvqa --help`. torch is imported when they are called.
"""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from cdvqa.deploy.network import Network

__version__ = "0.1.0"


def load(source: str | Path) -> "Network":
    """A finished network: `cdvqa.load("RUN").ask("how many cats are there?", image_id=42)`.

    Args:
        source: a run's folder, a network file with its run, or a folder that `cdvqa push` wrote.

    Raises:
        cdvqa.errors.InputError: no such network, an interrupted run, or no config beside it.
    """
    network: Network = import_module("cdvqa.deploy.network").load(source)
    return network


def train(config: str | Path | Sequence[str | Path], **overrides: Any) -> Path:
    """Train a stage and test it, as `cdvqa fit` and `cdvqa test` do; return the run's folder.

        cdvqa.train(["stage2_lmh.yaml", "scenes.yaml"], model__parent_objective="bce", trainer__max_epochs=3)

    Args:
        config: a config file, the name of a shipped one, or several; later ones win.
        overrides: options by name, with two underscores for each dot; they win over the configs. `quiet=True` prints
            only warnings and errors.

    Raises:
        cdvqa.errors.InputError: a setting is wrong, a file is missing, or the run exists; `overwrite=True` replaces it.
    """
    run: Path = import_module("cdvqa.tools.library").train(config, overrides)
    return run


def results(logs: str | Path = "logs") -> "pd.DataFrame":
    """All tested runs below a logs folder, a row each: pipeline, sparsity, parameters, accuracies, settings.

    The columns are those of a report's `runs.csv`, and `settings`. A run whose record is broken is left out with a
    warning.
    """
    table: pd.DataFrame = import_module("cdvqa.tools.library").results(Path(logs))
    return table
