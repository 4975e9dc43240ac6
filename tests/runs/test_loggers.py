"""What a run writes to TensorBoard."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from cdvqa.runs.loggers import SELECTED_ACCURACY


def events(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder)).Reload()


def settings(log: EventAccumulator) -> dict[str, str | float]:
    """The run's row of the HParams table."""
    content = log.PluginTagToContent("hparams")["_hparams_/session_start_info"]
    row = HParamsPluginData.FromString(content).session_start_info.hparams
    return {name: value.string_value or value.number_value for name, value in row.items()}


def test_events_hold_settings_accuracies_and_test_results(cdvqa: Callable[..., int]):
    """Guards: test results reach TensorBoard, metrics.csv stays as it is, no placeholder accuracy of 0.0."""
    assert cdvqa("fit", "stage1_bce.yaml", "--trainer.max_epochs=1") == 0
    assert cdvqa("prune", "--model.parent_objective=bce") == 0
    (trained,) = Path("logs").glob("*/*/stage1_bce*/seed0")
    (pruned,) = Path("logs").glob("*/*/stage2_bce_omp*/seed0")
    log, metrics = events(trained), (trained / "metrics.csv").read_bytes()
    (selected,) = log.Scalars(SELECTED_ACCURACY)
    assert selected.value == pytest.approx(log.Scalars("val/accuracy/all")[-1].value) and selected.step > 0
    row = settings(log)
    assert row == {
        "stage": 1, "objective": "bce", "pipeline": "bce", "preset": "paper", "lr": 0.002, "seed": 0,
        "method": "full", "assignment": "none", "criterion": "none", "sparsity": 0,
    }  # fmt: skip
    one_shot = events(pruned)
    assert SELECTED_ACCURACY not in one_shot.Tags()["scalars"]
    assert settings(one_shot).keys() == row.keys() and settings(one_shot)["method"] == "omp"

    assert cdvqa("test", "stage1_bce.yaml", "--trainer.max_epochs=1") == 0
    scalars = events(trained).Tags()["scalars"]
    splits = json.loads((trained / "results.json").read_text())["splits"]
    for split, result in splits.items():
        for group in result["n"]:
            tag = f"test/{split}/{group.replace('/', '_')}"
            assert tag in scalars and events(trained).Scalars(tag)[0].value == pytest.approx(result[group], abs=1e-4)
            assert events(trained).Scalars(tag)[0].step == selected.step, "they were at step 0"
    assert "epoch" not in scalars
    assert (trained / "metrics.csv").read_bytes() == metrics
