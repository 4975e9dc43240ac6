"""`make torture`: runs of every stage are killed at random moments, resumed, and compared with runs that were not."""

import argparse
import math
import os
import platform
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

from cdvqa.runs.folder import Run
from cdvqa.worlds.scenes import SceneConstants, write_scenes
from tests import fuzzing, signals, sweeps
from tests.conftest import CONF, overlay, the_run
from tests.killing import PHASES, ROOT, Board, differences, start

LOGS = Path("logs/scenes/lxmert")
OFTEN = ["--checkpoint_every_n_steps=5"]
MASKS = ["--config", str(CONF / "tiny_masks.yaml")]
OMP = ["--model.sparsity.method=omp"]
Wait = Callable[[Board, Callable[[], bool]], None]
PLACES = ("before the first checkpoint", "starting again", "training", "validating", "saving", "ending")


@dataclass
class Case:
    """One kind of run, and what has been done to it."""

    name: str
    run: str  # name, without the digest
    args: list[str]
    parents: tuple[str, ...] = ()
    kills: Counter[str] = field(default_factory=Counter)
    half_written: int = 0
    compared: int = 0
    found: list[str] = field(default_factory=list)


STAGE1, STAGE2, PRUNED = "stage1_lmh", "stage2_lmh+lmh_mask_uniform_s50", "stage2_lmh_omp_uniform_s50"
CASES = (
    Case("stage 1", STAGE1, ["stage1_lmh.yaml"]),
    Case("stage 1, checkpoints within epochs", STAGE1, ["stage1_lmh.yaml", *OFTEN]),
    Case("stage 2, masks", STAGE2, ["stage2_lmh.yaml", *MASKS], (STAGE1,)),
    Case(
        "stage 2, masks, 2 batches a step, validations and checkpoints within epochs",
        STAGE2,
        ["stage2_lmh.yaml", *MASKS, *OFTEN, "--trainer.accumulate_grad_batches=2", "--trainer.val_check_interval=0.5"],
        (STAGE1,),
    ),
    Case("stage 2, OMP", PRUNED, ["stage2_omp.yaml", "--model.parent_objective=lmh"], (STAGE1,)),
    Case(
        "stage 3 on masks, checkpoints within epochs",
        "stage3_lmh+lmh+lmh_mask_uniform_s50",
        ["stage3_lmh.yaml", *OFTEN],
        (STAGE2,),
    ),
    Case(
        "stage 3 on OMP, 2 batches a step",
        "stage3_lmh+lmh_omp_uniform_s50",
        ["stage3_lmh.yaml", *OMP, "--trainer.accumulate_grad_batches=2"],
        (PRUNED,),
    ),
)


def torture(kills: int, seed: int, folder: Path, page: Path) -> bool:
    """Kill each case's runs until that makes `kills` in all; write the record; True if all is well."""
    started, draw = time.monotonic(), random.Random(seed)
    world = folder / "scenes"
    write_scenes(world, 0, SceneConstants(train_questions=400, id_questions=90, ood_questions=70))
    os.chdir(folder)
    tiny = [*overlay(world), "--model.global_batch=16", "--trainer.max_epochs=3"]
    for case in CASES:
        fit = ["fit", "--config", case.args[0], *tiny, *case.args[1:]]
        torture_case(case, fit, -(-kills // len(CASES)), draw, folder)
        print(f"{case.name}: {case.kills.total()} kills, {case.compared} runs compared: {outcome(case)}", flush=True)
    page.write_text(record(seed, (time.monotonic() - started) / 60))
    return not any(case.found for case in CASES)


def torture_case(case: Case, fit: list[str], kills: int, draw: random.Random, folder: Path) -> None:
    """Make the run that nobody kills, then kill others like it."""
    shutil.rmtree(LOGS, ignore_errors=True)
    for parent in case.parents:
        shutil.copytree(folder / "parents" / parent, LOGS, dirs_exist_ok=True)
    whole = folder / "whole"
    began, board = time.monotonic(), Board(folder / "board")
    finish(fit, board)
    run = Run(the_run(case.run))
    length, entered = time.monotonic() - began, {phase: board.entered(phase) for phase in PHASES}
    shutil.rmtree(whole, ignore_errors=True)
    shutil.copytree(run.folder, whole)
    kept = folder / "parents" / case.run  # two cases make stage 1: the later is the parent
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(run.folder.parent, kept / run.folder.parent.name)
    while case.kills.total() < kills:
        shutil.rmtree(run.folder)
        for _ in range(min(draw.randint(2, 5), kills - case.kills.total())):
            if not kill_once(case, run, fit, moment(draw, length, entered), Board(folder / "board")):
                break
        if not run.finished:
            finish(again(run, fit), Board(folder / "board"))
        case.compared += 1
        case.found += differences(whole, run.folder)


def again(run: Run, fit: list[str]) -> list[str]:
    """The same command; what is a run goes on, what is none yet starts anew."""
    return [*fit, "--ckpt_path=last"] if run.exists else fit


def finish(args: list[str], board: Board) -> None:
    process = start(args, board)
    _, errors = process.communicate()
    if process.returncode:
        raise SystemExit(f"{' '.join(args)} ended with {process.returncode}:\n{errors[-3000:]}")


def kill_once(case: Case, run: Run, fit: list[str], wait: Wait, board: Board) -> bool:
    """Start or resume, wait, and kill; False if nothing is left to kill."""
    resumed, process = run.exists, start(again(run, fit), board)
    wait(board, lambda: process.poll() is not None)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    _, errors = process.communicate()
    if process.returncode == 0:
        return False
    if process.returncode != -signal.SIGKILL:
        case.found.append(f"a run ended with {process.returncode}: {errors.strip().splitlines()[-1]}")
        return False
    place = board.phase if board.phase != "starting" else "starting again" if resumed else PLACES[0]
    case.kills[place if run.exists else PLACES[0]] += 1
    case.half_written += any(run.folder.rglob("*.tmp"))
    if run.checkpoint.is_file():  # what has been saved is whole
        torch.load(run.checkpoint, weights_only=True)
    return not run.finished


def moment(draw: random.Random, length: float, entered: dict[str, int]) -> Wait:
    """When to kill: at any time at all, in the start-up, or soon after the run has entered a phase for the nth time.

    Args:
        draw: what the moment is drawn from.
        length: seconds that the whole run took.
        entered: how often the whole run entered each phase.
    """
    weights = {"training": 4, "validating": 3, "saving": 5, "ending": 1}
    weights = {phase: weight for phase, weight in weights.items() if entered[phase]} | {"any": 1, "start": 2}
    kind = draw.choices(list(weights), list(weights.values()))[0]
    count, delay = draw.randint(1, max(1, entered.get(kind, 0) // 2)), draw.random()

    def wait(board: Board, over: Callable[[], bool]) -> None:
        end = time.monotonic() + {"any": length, "start": 0.8 * length}.get(kind, math.inf) * (delay or 1)
        while not over() and time.monotonic() < end:
            if kind in PHASES and board.entered(kind) >= count:
                time.sleep(0.03 * delay)
                return
            time.sleep(0.0005)

    return wait


def outcome(case: Case) -> str:
    return f"**{', '.join(case.found[:3])}**" if case.found else "same to the last bit"


def record(seed: int, minutes: float) -> str:
    """The page."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "pytorch-lightning"))
    total = sum((case.kills for case in CASES), Counter())
    lines = [
        "# Runs that were killed",
        "",
        "`make torture` writes this page. It starts small runs of all stages, kills them (`kill -9`) at random times,",
        "resumes them with the same command and `--ckpt_path last`, kills them again, lets them finish, and compares",
        "each with a run of the same configuration that was not killed: `metrics.csv` byte by byte; weights, masks,",
        "scores, thresholds, the states of optimiser, schedule, loader and random generators bit by bit; `run.json`",
        "except for times and commit. A run that is killed before its first checkpoint starts from the beginning.",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, seed {seed}, {minutes:.0f} minutes, Python {platform.python_version()}, "
        f"{packages}: **{total.total()} kills, {sum(case.compared for case in CASES)} runs compared**.",
        "",
        f"| run | kills | {' | '.join(PLACES)} | left a half-written file | runs compared | they are |",
        f"|---|---|{'---|' * len(PLACES)}---|---|---|",
    ]
    for case in CASES:
        cells = [case.name, case.kills.total(), *(case.kills[place] for place in PLACES), case.half_written]
        lines.append(f"| {' | '.join(map(str, [*cells, case.compared, outcome(case)]))} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=56, help="at least this many")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "torture.md")
    parser.add_argument("--signals", type=int, default=20, help="SIGTERMs to each of rank 0, rank 1 and the group")
    parser.add_argument("--sweeps", type=int, default=10, help="kills of a sweep")
    parser.add_argument("--mutations", type=int, default=fuzzing.MUTATIONS, help="of each reader's files")
    given = parser.parse_args()
    page = given.page.absolute()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        sound = torture(given.kills, given.seed, folder, page)
        ended = signals.time_signals(given.signals, given.seed, folder / "scenes", folder)
        compared, different = sweeps.kill_sweeps(given.sweeps, given.seed, folder / "scenes", folder)
    page.write_text(page.read_text() + signals.section(ended) + sweeps.section(given.sweeps, compared, different))
    sound &= not any(None in trials for trials in ended.values()) and not different
    sound &= fuzzing.fuzz_all(given.mutations, given.seed, page)
    raise SystemExit(not sound)
