"""Runs in processes of their own that are killed, and how two finished runs differ."""

import mmap
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback

from cdvqa.files import read_json
from cdvqa.sparsity import Subnetwork

ROOT = Path(__file__).parents[1]
PHASES = ("starting", "training", "validating", "saving", "ending")
OWN_TO_A_RUN = ("started", "finished", "git")  # in run.json


class Phases(Callback):
    """Tells the outside what a run is doing: one byte per phase counts how often it was entered, one is the phase."""

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        with Path(os.environ["CDVQA_PHASES"]).open("rb+") as file:
            self.board = mmap.mmap(file.fileno(), 0)

    def enter(self, phase: str) -> None:
        number = PHASES.index(phase)
        self.board[number] = (self.board[number] + 1) % 256
        self.board[-1] = number

    def on_train_batch_start(self, *args: Any, **kwargs: Any) -> None:
        self.enter("training")

    def on_validation_start(self, *args: Any, **kwargs: Any) -> None:
        self.enter("validating")

    def on_save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        self.enter("saving")

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        self.enter("ending")

    on_fit_end = on_train_end


class Board:
    """The other end of `Phases`."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(len(PHASES) + 1))
        self.path = path
        with path.open("rb") as file:
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def entered(self, phase: str) -> int:
        return self._bytes[PHASES.index(phase)]

    @property
    def phase(self) -> str:
        return PHASES[self._bytes[-1]]


def start(args: list[str], board: Board | None = None) -> subprocess.Popen[str]:
    """`cdvqa ARGS` in a process, and a process group, of its own."""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    if board is not None:
        env["CDVQA_PHASES"] = str(board.path)
        args = [*args, "--trainer.callbacks+=tests.killing.Phases"]
    command = [sys.executable, "-m", "cdvqa", *args]
    return subprocess.Popen(
        command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def logged(metrics: Path, step: int) -> bool:
    """Whether a training step from `step` on has been logged."""
    rows = metrics.read_text().splitlines() if metrics.is_file() else []
    return any(int(row.split(",")[0]) >= step for row in rows if ",train/loss/total," in row)


def differences(first: Path, second: Path) -> list[str]:
    """Where two run folders differ in what has to be the same to the last bit; empty if nowhere."""
    rows = [path.read_bytes() if (path := folder / "metrics.csv").is_file() else b"" for folder in (first, second)]
    found = [] if rows[0] == rows[1] else ["metrics.csv"]
    name = "model.safetensors" if (first / "model.safetensors").is_file() else "subnetwork.safetensors"
    networks = [vars(Subnetwork.load(folder / name)) for folder in (first, second)]
    records = [read_json(folder / "run.json") for folder in (first, second)]
    for record in records:
        assert record["finished"]
        for key in OWN_TO_A_RUN:
            del record[key]
    found += unequal(*networks, name) + unequal(*records, "run.json")
    if (first / "checkpoints" / "last.ckpt").is_file():
        checkpoints = [
            torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True) for folder in (first, second)
        ]
        found += unequal(*checkpoints, "last.ckpt")
    return found


def unequal(first: Any, second: Any, place: str) -> list[str]:
    """The places where two nested structures of tensors and plain values differ."""
    if type(first) is not type(second):
        return [place]
    if isinstance(first, torch.Tensor):
        return [] if first.dtype == second.dtype and torch.equal(first, second) else [place]
    if isinstance(first, dict):
        if list(first) != list(second):
            return [place]
        return [found for key in first for found in unequal(first[key], second[key], f"{place}/{key}")]
    if isinstance(first, list | tuple):
        if len(first) != len(second):
            return [place]
        pairs = zip(first, second, strict=True)
        return [found for number, pair in enumerate(pairs) for found in unequal(*pair, f"{place}/{number}")]
    return [] if first == second or (first != first and second != second) else [place]
