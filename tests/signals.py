"""SIGTERM to one process, and to both, of a run of two: how long it takes until all of them have ended."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

from tests.conftest import overlay
from tests.killing import Board, start

TWO = ["--trainer.strategy=ddp", "--trainer.devices=2", "--trainer.max_epochs=1000", "--overwrite"]
TARGETS = ("rank 0", "rank 1", "the group")
PATIENCE = 60  # seconds after which a run counts as hanging


def seconds_to_exit(target: str, world: Path, folder: Path, delay: float) -> float | None:
    """Train on two processes, send SIGTERM `delay` seconds after the first step began, and wait; None: it hangs."""
    board = Board(folder / "board")
    process = start(["fit", "--config", "stage1_bce.yaml", *overlay(world), *TWO], board)
    while process.poll() is None and not board.entered("training"):
        time.sleep(0.01)
    time.sleep(delay)
    began = time.monotonic()
    if target == "the group":
        os.killpg(process.pid, signal.SIGTERM)
    else:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(process.pid if target == "rank 0" else int(children[0]), signal.SIGTERM)
    try:
        process.communicate(timeout=PATIENCE)  # stderr is open until the last process has ended
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return None
    return time.monotonic() - began


def time_signals(trials: int, seed: int, world: Path, folder: Path) -> dict[str, list[float | None]]:
    """Seconds to exit of each trial, by target; the moments are drawn."""
    draw, found = random.Random(seed), {}
    for target in TARGETS:
        found[target] = [seconds_to_exit(target, world, folder, draw.uniform(0, 0.5)) for _ in range(trials)]
        print(f"SIGTERM to {target}: {found[target]}", flush=True)
    return found


def section(found: dict[str, list[float | None]]) -> str:
    """The part of the page."""
    lines = ["", "## SIGTERM to a run of two processes (gloo), seconds until both have ended", ""]
    lines += ["| sent to | trials | hanging | median | longest |", "|---|---|---|---|---|"]
    for target, trials in found.items():
        ended = sorted(seconds for seconds in trials if seconds is not None)
        times = f"{ended[len(ended) // 2]:.1f} | {ended[-1]:.1f}" if ended else "- | -"
        lines.append(f"| {target} | {len(trials)} | {len(trials) - len(ended)} | {times} |")
    return "\n".join(lines) + "\n"
