"""Real trainers on one and two processes (gloo): a run that goes on from any checkpoint sees exactly what is left."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.data.toy import write_toy
from tests.loading_runs import EPOCHS, whole_and_resumed

TRAIN, TEST = 22, 11  # 4 steps of at most 6 questions an epoch
TRAIN_IDS, TEST_IDS = range(1000, 1000 + TRAIN), range(5000, 5000 + TEST)
Seen = dict[str, dict[str, list[Any]]]

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy(tmp_path_factory.mktemp("toy"), train=TRAIN, test=TEST)


@pytest.fixture(scope="module")
def two_processes(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where both processes have written what they saw, with 0 and 2 threads that read ahead."""
    folder = tmp_path_factory.mktemp("two")
    script = Path(__file__).with_name("loading_runs.py")
    command = [sys.executable, str(script), str(root), str(folder), "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def check(ranks: list[Seen]) -> None:
    """`ranks` has what each process saw, by run."""
    whole = [seen["whole"]["train"] for seen in ranks]
    steps = len(whole[0])
    assert steps == 4 * EPOCHS and all(len(process) == steps for process in whole)
    for epoch in range(EPOCHS):
        assert questions(whole, epoch) == Counter(TRAIN_IDS)
    assert len({repr(process) for process in whole}) == len(ranks)

    resumed = [name for name in ranks[0] if name != "whole"]
    assert len(resumed) == steps + steps // 2 + EPOCHS
    for name in resumed:
        step = int(name.partition("step=")[2])
        rest = [seen[name]["train"] for seen in ranks]
        for process, all_of_it in zip(rest, whole, strict=True):
            assert [[epoch, *map(tuple, pairs)] for epoch, *pairs in process] == [
                [epoch, *map(tuple, pairs)] for epoch, *pairs in all_of_it[step:]
            ], name
        if step < steps:
            before = [process[:step] for process in whole]
            assert questions(before, step // 4) + questions(rest, step // 4) == Counter(TRAIN_IDS), name

    labels = {(epoch, question): label for process in whole for epoch, *pairs in process for question, label in pairs}
    drawn = [[labels[epoch, question] for epoch in range(EPOCHS)] for question in TRAIN_IDS]
    assert any(len(set(of_question)) > 1 for of_question in drawn)  # random labels change with the epoch

    for run in ranks[0]:
        for evaluation in zip(*(seen[run]["evaluation"] for seen in ranks), strict=True):
            assert Counter(question for process in evaluation for question in process) == Counter(TEST_IDS), run
    assert len(ranks[0]["whole"]["evaluation"]) == steps // 2


def questions(processes: list[list[Any]], epoch: int) -> Counter[int]:
    """How often all processes together trained on each question in an epoch."""
    return Counter(pair[0] for steps in processes for e, *pairs in steps if e == epoch for pair in pairs)


@pytest.mark.parametrize("workers", [0, 2])
def test_one_process_goes_on_exactly_from_each_checkpoint(root: Path, tmp_path: Path, workers: int):
    check([whole_and_resumed(root, tmp_path, workers, processes=1)])


@pytest.mark.parametrize("workers", [0, 2])
def test_two_processes_go_on_exactly_from_each_checkpoint(two_processes: Path, workers: int):
    check([json.loads((two_processes / f"workers{workers}-rank{rank}.json").read_text()) for rank in range(2)])
