"""CPU time of a small run in a study, beside two commands in processes of their own."""

import ctypes
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import yaml

from benchmarks.record import Record, write
from cdvqa.worlds.scenes import SceneConstants, write_scenes

RUNS = (2, 8)  # of a short and a long study: their difference is what a run costs, without the start of the sweep
GOAL = 2.0  # seconds
PR_SET_CHILD_SUBREAPER = 36
NOTE = (
    "A run is one step of the small LXMERT and a test on 160 questions, which count as part of the cost. CPU time of "
    "all processes, imports included, from a study of two runs and one of eight."
)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        write("sweep", measure(Path(folder)), NOTE)


def measure(folder: Path) -> list[Record]:
    """What a further run of a study costs."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)  # processes whose parents have ended become ours to count
    write_scenes(folder / "scenes", 0, SceneConstants(train_questions=4_000, id_questions=90, ood_questions=70))
    ours, usual = {}, {}
    for runs in RUNS:
        file = write_study(folder, runs)
        ours[runs] = cpu_seconds([["sweep", str(file), "--logs", f"sweep{runs}"]], folder)
        usual[runs] = cpu_seconds([c for seed in range(runs) for c in commands(folder, seed, f"usual{runs}")], folder)
    short, long = RUNS
    per_run, before = ((cpu[long] - cpu[short]) / (long - short) for cpu in (ours, usual))
    goal = f"<= {GOAL:g}"
    return [
        Record("CPU of a further run", per_run, "s", baseline=before, against=None, goal=goal),
        Record("CPU of a study of eight runs", ours[long], "s", baseline=usual[long], goal="<= 1"),
    ]


def settings(folder: Path) -> dict[str, object]:
    """One step on the small world."""
    return {
        "data.root": str(folder / "scenes"),
        "data.num_answers": 24,  # of so small a world
        "model.backbone.pretrained": str(folder / "scenes" / "lxmert"),
        "trainer.max_epochs": 1,
        "trainer.limit_train_batches": 1,
    }


def write_study(folder: Path, runs: int) -> Path:
    """A study of one full model and so many seeds."""
    file = folder / f"study{runs}.yaml"
    grid = {"pipeline": "bce", "settings": settings(folder)}
    file.write_text(yaml.safe_dump({"data": "scenes", "backbone": "lxmert", "seeds": runs, "runs": [grid]}))
    return file


def commands(folder: Path, seed: int, logs: str) -> list[list[str]]:
    """The commands that do the same for one seed."""
    configs = ["--config=stage1_bce.yaml", "--config=scenes.yaml"]
    flags = [f"--{name}={value}" for name, value in settings(folder).items()]
    run = [*configs, *flags, f"--seed_everything={seed}", f"--trainer.default_root_dir={logs}"]
    return [["fit", *run], ["test", *run]]


def cpu_seconds(commands: Sequence[list[str]], folder: Path) -> float:
    """The CPU time of commands and of all processes that they start."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for arguments in commands:
        subprocess.run([sys.executable, "-m", "cdvqa", *arguments], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    while True:  # a server of forked processes ends a moment after its command
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            break
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
