"""`cdvqa board`: TensorBoard over all runs, with an overview of their tests."""

import shutil
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from threading import Event
from typing import Any

from tensorboard import program
from tensorboard.plugins.hparams.summary_v2 import hparams_config_pb
from torch.utils.tensorboard import SummaryWriter

from cdvqa.cli.parsing import call
from cdvqa.errors import InputError
from cdvqa.metrics import id_and_ood
from cdvqa.runs.dashboard import KEPT_ID, KEPT_OOD, METRICS, chart, columns, layout, plain, row_of
from cdvqa.runs.folder import Run, read_results
from cdvqa.runs.identity import differing

# Folder of the overview in the logs. It sorts before every run: TensorBoard orders the charts as the first layout does.
OVERVIEW = ".board"
PAGE = "#custom_scalars&_smoothingWeight=0"  # unsmoothed: neighbouring points are different sparsities, not noise
BY_KEPT = {
    "ID and OOD by kept share (percent of the weights)": {
        "OOD": chart(KEPT_OOD),
        "ID": chart(KEPT_ID),
        "ID and OOD": chart(f"({KEPT_ID}|{KEPT_OOD})"),
    }
}

Records = Mapping[Run, tuple[Mapping[str, Any], Mapping[str, Any]]]
"""Record and results of each run."""


def run(args: list[str]) -> None:
    """Run `cdvqa board` with command-line arguments."""
    call(board, args, {})


def board(logs: Path = Path("logs"), port: int = 6006) -> None:
    """Serve TensorBoard for all runs of a folder, with an overview of their tests.

    Args:
        logs: folder that holds <data>/<backbone>/<run>/seed<k>/.
        port: of the page, on this machine alone.
    """
    found = write_overview(logs)
    try:
        address = server(logs, port).launch()
    except (program.TensorBoardServerException, OverflowError) as error:
        raise InputError(f"--port {port}: {error}; give another") from error
    print(f"{found} runs: {address}{PAGE}", flush=True)
    Event().wait()  # until it is interrupted


def server(logs: Path, port: int) -> program.TensorBoard:
    """TensorBoard for these logs, not started yet."""
    tensorboard = program.TensorBoard()
    tensorboard.configure(argv=("tensorboard", f"--logdir={logs}", f"--port={port}"))
    return tensorboard


def write_overview(logs: Path) -> int:
    """Write the overview, in place of an earlier one; return the number of runs.

    It holds what no single run knows: the layout for the question types of all runs, the columns of HParams (the
    settings that differ), and accuracy against the share of kept weights.

    Raises:
        InputError: there is no run.
    """
    records, problems = read_runs(logs)
    for problem in problems:
        print(f"left out: {problem}")
    if not records:
        raise InputError(f"{logs}: no run here; `cdvqa fit --config …` makes one")
    shutil.rmtree(logs / OVERVIEW, ignore_errors=True)
    splits = [split for _, results in records.values() for split in results.get("splits", {}).values()]
    question_types = {name for split in splits for name in split["per_question_type"]}
    answer_types = dict.fromkeys(name for split in splits for name in split["n"] if name != "all")
    with SummaryWriter(str(logs / OVERVIEW)) as writer:
        writer.add_custom_scalars({**BY_KEPT, **layout(question_types, answer_types)})
        rows = [row_of(record) for record, _ in records.values()]
        writer._get_file_writer().add_summary(hparams_config_pb(columns(rows), METRICS))
    for name, points in by_kept_share(records).items():
        with SummaryWriter(str(logs / OVERVIEW / name)) as writer:
            for (percent, tag), accuracies in sorted(points.items()):
                writer.add_scalar(tag, fmean(accuracies), percent)
    return len(records)


def read_runs(logs: Path) -> tuple[Records, list[str]]:
    """Record and results of every run, and a line on each that cannot be read."""
    found: dict[Run, tuple[dict[str, Any], dict[str, Any]]] = {}
    problems = []
    for path in sorted(logs.glob("*/*/*/*/run.json")):
        run = Run(path.parent)
        try:
            found[run] = (run.read(), read_results(run))
        except InputError as error:
            problems.append(str(error))
    return found, problems


def by_kept_share(records: Records) -> dict[str, dict[tuple[int, str], list[float]]]:
    """Test accuracies by percent of kept weights and tag, by series.

    A series has one data set, backbone, stage, pipeline and method. Runs that differ in another setting than the amount
    of zeros are series of their own, which the setting names. A point collects all seeds, and all shares of the
    modalities.
    """
    series: dict[str, list[Run]] = defaultdict(list)
    for run, (record, _) in records.items():
        row = row_of(record)
        data, backbone = run.folder.parts[-4:-2]
        series[" ".join([data, backbone, f"stage{row['Stage']}", row["Pipeline"], *methods(row)])].append(run)
    found: dict[str, dict[tuple[int, str], list[float]]] = defaultdict(lambda: defaultdict(list))
    for name, runs in series.items():
        settings = [records[run][0]["settings"] for run in runs]
        amount = ("model.sparsity.zeros.", *(["parent"] if records[runs[0]][0]["stage"] == 3 else []))
        others = [setting for setting in differing(settings) if not setting.startswith(amount)]
        for run, given in zip(runs, settings, strict=True):
            record, results = records[run]
            own = [f"{setting} {plain(given[setting])}".replace("/", "_") for setting in others if setting in given]
            accuracies = id_and_ood(results.get("splits", {}), results.get("means", {}))
            percent = round(100 * (1 - row_of(record)["Sparsity"]))
            for kind, tag in (("id", KEPT_ID), ("ood", KEPT_OOD)):
                if kind in accuracies:
                    found[" ".join([name, *own])][percent, tag].append(accuracies[kind])
    return found


def methods(row: Mapping[str, Any]) -> list[str]:
    """Method, assignment and criterion of a run, as in its name; empty in stage 1."""
    if row["Method"] == "full":
        return []
    names = (row["Method"], row["assignment"], *([] if row["criterion"] == "magnitude" else [row["criterion"]]))
    return [str(name).rpartition(".")[2] for name in names]
