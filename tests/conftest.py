"""Fixtures shared by the whole suite."""

import os
from collections.abc import Callable
from pathlib import Path

# Set before any library reads them: the suite never asks the network and runs one thread a process.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def golden() -> Callable[[str], dict[str, np.ndarray]]:
    """Arrays computed with the authors' own functions: `golden("loss_bce")["c0_loss"]`."""

    def load(name: str) -> dict[str, np.ndarray]:
        with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as file:
            return dict(file)

    return load


@pytest.fixture
def shared() -> Path:
    """The folder of real data that stays out of the repository; the test is skipped where it is absent."""
    folder = Path(os.environ.get("CDVQA_SHARED", Path(__file__).parents[2] / "shared"))
    if not folder.is_dir():
        pytest.skip("real VQA-VS questions and the BERT vocabulary are not here (set CDVQA_SHARED to their folder)")
    return folder
