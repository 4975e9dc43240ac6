"""cdvqa: compress and debias vision-language models for visual question answering."""

from importlib import import_module
from pathlib import Path
from typing import Any

__version__ = "0.1.0"


def load(source: str | Path) -> Any:
    """A finished network for a notebook: `cdvqa.load("RUN").ask("how many cats are there?", image_id=42)`.

    Args:
        source: a run's folder, a network file with its run, or a folder that `cdvqa push` wrote.

    Returns:
        A `cdvqa.deploy.network.Network`.

    Raises:
        cdvqa.errors.InputError: no such network, an interrupted run, or no config beside it.
    """
    return import_module("cdvqa.deploy.network").load(source)  # torch is imported only now
