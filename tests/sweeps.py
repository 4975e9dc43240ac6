"""A study whose sweep is killed again and again: its records are those of a sweep that was not."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from cdvqa.studies.sweep.records import read_lines
from tests.conftest import CONF, overlay
from tests.killing import ROOT

GRIDS = (
    {"pipeline": ["bce", "lmh"]},
    {"method": "mask", "pipeline": ["bce+lmh", "lmh+lmh"], "sparsity": 0.5},
    {"method": "omp", "pipeline": ["bce", "bce+lmh"], "sparsity": 0.5},
)


def kill_sweeps(kills: int, seed: int, world: Path, folder: Path) -> tuple[int, list[str]]:
    """Kill the sweep of a study of six runs at random moments, let it finish, and compare.

    Args:
        kills: how many.
        seed: of the moments.
        world: the data set.
        folder: to work in.

    Returns:
        Runs compared, and in which of them the records differ.
    """
    draw, study = random.Random(seed), folder / "killed_study.yaml"
    data = dict(flag.removeprefix("--").split("=") for flag in overlay(world) if "=" in flag)
    shared = {"data": "scenes", "backbone": "lxmert", "seeds": 1, "configs": [str(CONF / "tiny.yaml")]}
    study.write_text(yaml.safe_dump(shared | {"runs": list(GRIDS), "settings": data | {"trainer.max_epochs": 3}}))
    began = time.monotonic()
    assert sweep(study, "whole", folder).wait() == 0
    length = time.monotonic() - began
    for _ in range(kills):
        process = sweep(study, "killed", folder)
        time.sleep(draw.uniform(0.3, 1) * length)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert sweep(study, "killed", folder).wait() == 0
    whole, killed = (records(folder / name) for name in ("whole", "killed"))
    return len(whole), [name for name in whole.keys() | killed.keys() if whole.get(name) != killed.get(name)]


def sweep(study: Path, name: str, folder: Path) -> "subprocess.Popen[bytes]":
    """Start a sweep with logs and records of this name."""
    arguments = ["sweep", str(study), "--logs", f"{name}/logs", "--records", name]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with (folder / f"{name}.txt").open("ab") as log:
        command = [sys.executable, "-m", "cdvqa", *arguments]
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)


def records(folder: Path) -> dict[tuple[str, int], Any]:
    """The results of each run."""
    lines = read_lines(folder / "killed_study.jsonl").values()
    return {(line["run"], line["seed"]): line["results"] for line in lines}


def section(kills: int, compared: int, different: list[str]) -> str:
    """The part of the page."""
    outcome = f"**different: {', '.join(map(str, different))}**" if different else "the same results"
    lines = ["", "## A sweep of six runs, two at a time, killed with the same command to go on", ""]
    lines += ["| kills | runs compared | they have |", "|---|---|---|", f"| {kills} | {compared} | {outcome} |"]
    return "\n".join(lines) + "\n"
