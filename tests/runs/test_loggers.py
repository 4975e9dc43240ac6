"""What a run writes to TensorBoard."""

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from pytorch_lightning.loggers import Logger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from cdvqa.runs.dashboard import ID_ACCURACY, LEARNING_RATE, OOD_ACCURACY, PROCESS_MEMORY, SPEED
from cdvqa.runs.loggers import SELECTED_ACCURACY


def events(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder)).Reload()


def settings(log: EventAccumulator) -> dict[str, str | float]:
    """The run's row of the HParams table."""
    content = log.PluginTagToContent("hparams")["_hparams_/session_start_info"]
    row = HParamsPluginData.FromString(content).session_start_info.hparams
    return {name: value.string_value or value.number_value for name, value in row.items()}


def page_of(log: EventAccumulator) -> str:
    """The run's page of text, as it was last written."""
    return log.Tensors("run/text_summary")[-1].tensor_proto.string_val[0].decode()


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
    of_the_run = {
        "Stage": 1, "Pipeline": "bce", "preset": "paper", "Seed": 0,
        "Method": "full", "assignment": "none", "criterion": "none", "Sparsity": 0,
    }  # fmt: skip
    recorded = json.loads((trained / "run.json").read_text())["settings"]
    assert {name: row.pop(name) for name in of_the_run} == of_the_run
    assert row.keys() == {name for name, value in recorded.items() if value is not None}
    assert (row["model.lr"], row["model.objective"], row["trainer.max_epochs"]) == (0.002, "bce", 1)
    one_shot = events(pruned)
    assert SELECTED_ACCURACY not in one_shot.Tags()["scalars"]
    assert (settings(one_shot)["Method"], settings(one_shot)["Sparsity"]) == ("omp", 0.5)
    assert one_shot.Tags()["images"] == ["masks/sparsity"]
    identity = json.loads((trained / "run.json").read_text())["identity"]
    assert identity[:8] == settings(one_shot)["parent"]
    assert f"`{identity}`" in page_of(log) and f"`{identity}`" in page_of(one_shot), "as the run's own, as the parent's"
    assert not {ID_ACCURACY, OOD_ACCURACY} & {*log.Tags()["scalars"], *one_shot.Tags()["scalars"]}, "no test so far"

    assert cdvqa("test", "stage1_bce.yaml", "--trainer.max_epochs=1") == 0
    scalars = events(trained).Tags()["scalars"]
    splits = json.loads((trained / "results.json").read_text())["splits"]
    for split, result in splits.items():
        for group in result["n"]:
            tag = f"test/{split}/{group.replace('/', '_')}"
            assert tag in scalars and events(trained).Scalars(tag)[0].value == pytest.approx(result[group], abs=1e-4)
            assert events(trained).Scalars(tag)[0].step == selected.step, "they were at step 0"
    assert "epoch" not in scalars
    for tag, split in ((ID_ACCURACY, "id"), (OOD_ACCURACY, "test")):
        assert events(trained).Scalars(tag)[0].value == pytest.approx(splits[split]["all"], abs=1e-4)
    assert (trained / "metrics.csv").read_bytes() == metrics


MEASURED = {LEARNING_RATE, SPEED, PROCESS_MEMORY}


class Plain(Logger):
    """A logger of a user's own: it writes what it is given as lines of JSON."""

    def __init__(self, file: str) -> None:
        super().__init__()
        self.file = Path(file)

    name, version = "plain", ""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        with self.file.open("a") as file:
            print(json.dumps([step, {name: float(value) for name, value in metrics.items()}]), file=file)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        with self.file.open("a") as file:
            print(json.dumps([None, params]), file=file)


def test_loggers_are_added_and_replace_none(cdvqa: Callable[..., int]):
    """`--trainer.logger` took the place of metrics.csv and the events, and a resumed run then lacked its rows."""
    added = yaml.safe_dump(
        {
            "trainer": {
                "logger": [
                    {"class_path": f"{__name__}.Plain", "init_args": {"file": "plain.jsonl"}},
                    {"class_path": "CSVLogger", "init_args": {"save_dir": "csv", "name": ""}},
                ]
            }
        }
    )
    Path("loggers.yml").write_text(added)
    for command in ("fit", "test"):
        assert cdvqa(command, "stage1_bce.yaml", "--trainer.max_epochs=1", "--config=loggers.yml") == 0
    (run,) = Path("logs").glob("*/*/stage1_bce*/seed0")
    rows = {tuple(line.split(",")[:2]) for line in (run / "metrics.csv").read_text().splitlines()[1:]}
    lines = [json.loads(line) for line in Path("plain.jsonl").read_text().splitlines()]
    given = {(str(step), name) for step, values in lines if step is not None for name in values}
    assert rows <= given and {"train/loss/total", "val/accuracy/all"} <= {name for _, name in rows}
    assert {name for step, values in lines if step is None for name in values} >= {"model.lr", "Pipeline"}
    names = {name for _, name in given}
    assert MEASURED | {ID_ACCURACY, OOD_ACCURACY, "test/id/all"} <= names
    assert names - {"epoch"} == set(events(run).Tags()["scalars"])
    with Path("csv/version_0/metrics.csv").open() as file:
        assert {"train/loss/total", LEARNING_RATE} <= set(next(csv.reader(file)))


def test_what_a_clock_measures_is_not_in_the_file_that_a_resumed_run_repeats(cdvqa: Callable[..., int]):
    assert cdvqa("fit", "stage1_lmh.yaml", "--trainer.max_epochs=1", "--trainer.log_every_n_steps=2") == 0
    (run,) = Path("logs").glob("*/*/stage1_lmh*/seed0")
    log = events(run)
    assert not MEASURED & {line.split(",")[1] for line in (run / "metrics.csv").read_text().splitlines()}
    steps = [event.step for event in log.Scalars("train/loss/total")]
    for tag in MEASURED:
        assert [event.step for event in log.Scalars(tag)] == steps
        assert all(event.value > 0 for event in log.Scalars(tag)[1:])
    rates = [event.value for event in log.Scalars(LEARNING_RATE)]
    assert rates == pytest.approx([0.002, 0.0012, 0.0004]), "steps 2, 4 and 6: warm, then on the way to 0"


def documented() -> list[str]:
    """Patterns of the tags in the tables of docs/DASHBOARD.md."""
    lines = (Path(__file__).parents[2] / "docs" / "DASHBOARD.md").read_text().splitlines()
    cells = [line.split(" | ")[0] for line in lines if line.startswith("| `")]
    tags = [tag for cell in cells for tag in re.findall("`(.+?)`", cell)]
    return [re.sub("<.+?>", ".+", tag) for tag in tags]


def test_every_chart_has_a_tag_and_every_number_a_chart(cdvqa: Callable[..., int]):
    """Guards the layout: its patterns are regular expressions, and names of types have characters that mean something.

    Question types of test sets have no charts, nor has the drift of masks.
    """
    assert cdvqa("fit", "stage1_lmh.yaml", "--trainer.max_epochs=1") == 0
    assert cdvqa("fit", "stage2_lmh.yaml", "tiny_masks.yaml", "--trainer.max_epochs=1") == 0
    assert cdvqa("test", "stage2_lmh.yaml", "tiny_masks.yaml", "--trainer.max_epochs=1") == 0
    (run,) = Path("logs").glob("*/*/stage2_lmh*/seed0")
    log = events(run)
    content = log.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    charts = {chart.title: chart.multiline.tag for part in Layout.FromString(content).category for chart in part.chart}
    scalars = log.Tags()["scalars"]
    shown = {
        title: [tag for tag in scalars for regex in tags if re.match(regex, tag)] for title, tags in charts.items()
    }
    empty = {title for title, tags in shown.items() if not tags}
    assert empty == {"other quantities", "memory of the GPU (GiB, peak)"}
    alone = set(scalars) - {tag for tags in shown.values() for tag in tags}
    known = r"mask/drift/|mask/threshold/|test/[^/]+/question_type/|hp/val_accuracy$"
    assert not [tag for tag in alone if not re.match(known, tag)]
    assert shown["yes_no"] == ["val/accuracy/yes_no"] and "what color is the" in shown
    assert {"test/id/yes_no", "test/test/yes_no"} == set(shown["yes_no, test"])
    assert not [tag for tag in scalars if tag.startswith("sparsity/matrix/")]
    tags, patterns = [*scalars, *log.Tags()["images"], "run/text_summary"], documented()
    assert not [tag for tag in tags if not any(re.fullmatch(pattern, tag) for pattern in patterns)]
    assert set(log.Tags()["images"]) == {
        "masks/sparsity", "masks/changed_since_start", "samples/dev", "samples/id", "samples/test",
    }  # fmt: skip
