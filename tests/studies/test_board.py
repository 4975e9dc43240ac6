"""TensorBoard over several runs, as its own server hands it out."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from socket import create_server
from typing import Any
from urllib.parse import quote
from urllib.request import Request, urlopen

import pytest

from cdvqa.cli import main
from cdvqa.runs.dashboard import KEPT_OOD
from cdvqa.runs.folder import Run
from cdvqa.studies.board import OVERVIEW, by_kept_share, server, write_overview

Ask = Callable[..., Any]


@pytest.fixture
def ask(cdvqa: Callable[..., int]) -> Iterator[Ask]:
    """TensorBoard's answers about a fine-tuned run and two that are pruned from it; one of these is not tested."""
    assert cdvqa("fit", "stage1_bce.yaml", "--trainer.max_epochs=1") == 0
    for share in (0.3, 0.5):
        assert cdvqa("prune", "--model.parent_objective=bce", f"--model.sparsity.overall={share}") == 0
    assert cdvqa("test", "stage1_bce.yaml", "--trainer.max_epochs=1") == 0
    assert cdvqa("test", "stage2_omp.yaml", "--model.sparsity.overall=0.3") == 0
    for _ in range(2):  # the second time it replaces what it wrote
        assert write_overview(Path("logs")) == 3
    address = server(Path("logs"), 0).launch()

    def ask(path: str, **body: Any) -> Any:
        request = Request(f"{address}data/plugin/{path}", json.dumps(body).encode() if body else None)
        request.add_header("Content-Type", "application/json")
        with urlopen(request) as answer:
            return json.load(answer)

    yield ask


def accuracies(run: Path) -> list[float]:
    splits = json.loads((run / "results.json").read_text())["splits"]
    return [splits[name]["all"] for name in ("id", "test")]


def test_the_overview_answers_across_runs(ask: Ask):
    runs = {run.parent.name.partition("-")[0]: run for run in Path("logs").glob("scenes/lxmert/*/seed0")}
    tuned, pruned = runs["stage1_bce"], runs["stage2_bce_omp_uniform_s30"]

    layout = ask("custom_scalars/layout")["category"]
    assert layout[0]["title"].startswith("ID and OOD by kept share")
    assert len({category["title"] for category in layout}) == len(layout), "the runs' own layouts are the same"
    titles = [chart["title"] for category in layout for chart in category["chart"]]
    assert "what color is the" in titles and titles.count("OOD, test") == 1

    tags = ask("scalars/tags")
    series = {run.removeprefix(f"{OVERVIEW}/"): run for run in tags if run.startswith(OVERVIEW) and tags[run]}
    assert series.keys() == {"scenes lxmert stage1 bce", "scenes lxmert stage2 bce omp uniform"}
    for name, run, percent in zip(sorted(series), (tuned, pruned), (100, 70), strict=True):
        for tag, accuracy in zip(("kept/id_accuracy", "kept/ood_accuracy"), accuracies(run), strict=True):
            ((_, step, value),) = ask(f"scalars/scalars?run={quote(series[name])}&tag={tag}")
            assert (step, value) == (percent, pytest.approx(accuracy, abs=1e-4))

    experiment = ask("hparams/experiment", experimentName="")
    assert [metric["displayName"] for metric in experiment["metricInfos"]] == ["ID accuracy", "OOD accuracy"]
    columns = [column["name"] for column in experiment["hparamInfos"]]
    assert {"Stage", "Method", "Sparsity", "model.sparsity.zeros.language"} <= set(columns)
    assert not {"Seed", "preset", "data.name"} & set(columns), "all runs have the same"
    wanted = {"colParams": [{"hparam": name} for name in columns], "sliceSize": 9, "startIndex": 0}
    answer = ask("hparams/session_groups", experimentName="", allowedStatuses=["STATUS_SUCCESS"], **wanted)
    shown = {
        (row["hparams"]["Method"], row["hparams"]["Sparsity"]): [metric["value"] for metric in row["metricValues"]]
        for row in answer["sessionGroups"]
    }
    untested = shown.pop(("omp", 0.5))
    assert untested == [], "a run without a test showed an accuracy of 0"
    assert shown == {
        ("full", 0): pytest.approx(accuracies(tuned), abs=1e-4),
        ("omp", 0.3): pytest.approx(accuracies(pruned), abs=1e-4),
    }


def test_runs_that_differ_in_more_than_the_amount_of_zeros_are_not_averaged(tmp_path: Path):
    """Defect: one point was the mean over unstructured, structured and 2:4 pruning."""
    plan = {"method": "omp", "assignment": "uniform", "criterion": "magnitude"}
    records = {}
    for number, (zeros, seed, accuracy, more) in enumerate(
        [
            (0.5, 0, 70.0, {}),
            (0.5, 1, 72.0, {}),
            (0.3, 0, 80.0, {}),
            (0.5, 0, 30.0, {"model.sparsity.pattern": "2:4"}),
            (0.5, 0, 40.0, {"parent": {"identity": "f" * 64}}),
        ]
    ):
        settings = {"model.sparsity.zeros.language": int(100 * zeros), "parent": {"identity": "e" * 64}} | more
        record = {"stage": 2, "pipeline": ["bce"], "seed": seed, "preset": "paper", "settings": settings}
        record["sparsity"] = plan | {"overall": zeros}
        split = {"all": accuracy, "distribution": "ood"}
        run = Run(tmp_path / "scenes" / "lxmert" / f"run-{number}" / f"seed{seed}")
        records[run] = (record, {"splits": {"test": split}})
    name = "scenes lxmert stage2 bce omp uniform"
    assert {series: dict(points) for series, points in by_kept_share(records).items()} == {
        f"{name} parent eeeeeeee": {(50, KEPT_OOD): [70.0, 72.0], (70, KEPT_OOD): [80.0]},
        f"{name} model.sparsity.pattern 2:4 parent eeeeeeee": {(50, KEPT_OOD): [30.0]},
        f"{name} parent ffffffff": {(50, KEPT_OOD): [40.0]},
    }


def test_no_run_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    assert main(["board", f"--logs={tmp_path}"]) == 2
    assert capsys.readouterr().err == f"cdvqa board: {tmp_path}: no run here; `cdvqa fit --config …` makes one\n"
    assert not list(tmp_path.iterdir())


def test_a_port_that_is_taken_or_none_is_one_line(ask: Ask, capsys: pytest.CaptureFixture[str]):
    """Defect: the address was printed, and the exit status was 0."""
    with create_server(("localhost", 0)) as taken:
        for port, reason in ((taken.getsockname()[1], "already in use"), (99999, "cannot bind"), (-1, "0-65535")):
            capsys.readouterr()
            assert main(["board", f"--port={port}"]) == 2
            out, err = capsys.readouterr()
            assert f"cdvqa board: --port {port}: " in err and reason in err and "http" not in out
