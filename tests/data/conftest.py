"""Fixtures of the data tests."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def shared_folder() -> Path:
    """As `shared`, for fixtures that a module builds once."""
    folder = Path(os.environ.get("CDVQA_SHARED", Path(__file__).parents[3] / "shared"))
    if not folder.is_dir():
        pytest.skip("real VQA-VS questions and the BERT vocabulary are not here (set CDVQA_SHARED to their folder)")
    return folder
