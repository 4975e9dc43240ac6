"""Studies on the tiny world."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import CONF, overlay


@pytest.fixture
def study(scenes: Path, tmp_path: Path) -> Callable[..., Path]:
    """Write `tiny_study.yaml`: grids on the tiny world, one step a stage."""

    def write(runs: Sequence[dict[str, Any]], **more: Any) -> Path:
        data = dict(arg.removeprefix("--").split("=") for arg in overlay(scenes) if "=" in arg)
        short = {"trainer.max_epochs": 1, "trainer.limit_train_batches": 1}
        shared = {"data": "scenes", "backbone": "lxmert", "seeds": 1, "configs": [str(CONF / "tiny.yaml")]}
        runs = [{**run, "settings": data | short | run.get("settings", {})} for run in runs]
        path = tmp_path / "tiny_study.yaml"
        path.write_text(yaml.safe_dump(shared | {"runs": runs} | more))
        return path

    return write
