"""Stands in for SLURM on this machine: sbatch (arrays, dependencies), srun, sacct and scancel.

`install` puts them on PATH. What they know of jobs lies in one folder: `<job>_<task>` holds the state of a task.
"""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

COMMANDS = ("sbatch", "srun", "sacct", "scancel")


def install(folder: Path) -> dict[str, str]:
    """The environment in which the commands work."""
    (folder / "bin").mkdir(parents=True)
    (folder / "states").mkdir()
    for command in COMMANDS:
        script = folder / "bin" / command
        script.write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__)} {command} "$@"\n')
        script.chmod(0o755)
    return {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "SLURM_STAND_IN": str(folder / "states")}


def sbatch(file: str) -> None:
    """Take an array; a process in the background runs it when those that it depends on have ended."""
    text = Path(file).read_text()
    (states / "scripts").mkdir(exist_ok=True)
    number = 1 + len(list((states / "scripts").iterdir()))
    (states / "scripts" / f"{number}.sh").write_text(text)
    tasks = re.search(r"--array=0-(\d+)", text)
    for task in range(int(tasks[1]) + 1) if tasks else [None]:
        write(states / (str(number) if task is None else f"{number}_{task}"), "PENDING")
    after = re.search(r"--dependency=afterany:(\d+)", text)
    subprocess.Popen(
        [sys.executable, __file__, "work", str(number), after[1] if after else ""],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    print(f"Submitted batch job {number}")


def work(number: str, after: str) -> None:
    """Run the tasks of an array in turn."""
    while after and any(path.read_text() in ("PENDING", "RUNNING") for path in tasks_of(after)):
        time.sleep(0.05)
    for path in tasks_of(number):
        write(path, "RUNNING")
        array = path.name.partition("_")
        environment = {
            "SLURM_JOB_ID": number,
            "SLURM_JOB_NUM_NODES": "1",
            "SLURM_NTASKS": "1",
            "SLURM_JOB_NODELIST": "here",
        }
        if array[2]:
            environment |= {"SLURM_ARRAY_JOB_ID": number, "SLURM_ARRAY_TASK_ID": array[2]}
        status = subprocess.call(["bash", states / "scripts" / f"{number}.sh"], env=os.environ | environment)
        write(path, "FAILED" if status else "COMPLETED")


def write(path: Path, state: str) -> None:
    """The state of a task, whole at any moment: the test and other processes read it meanwhile."""
    new = states.with_name(path.name)
    new.write_text(state)
    new.replace(path)


def srun(*words: str) -> None:
    """The only task of a job."""
    command = [word for word in words if not word.startswith("--")]
    while command[0] != sys.executable and not command[0].endswith("python"):  # values of options
        command.pop(0)
    os.environ |= {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
    os.execv(command[0], list(command))


def sacct(*words: str) -> None:
    """The states of all tasks."""
    print("JobID|State|NodeList")
    for path in sorted(states.iterdir()):
        if path.is_file():
            print(f"{path.name}|{path.read_text()}|here")


def scancel(*words: str) -> None:
    """No test cancels a job that has begun."""


def tasks_of(number: str) -> list[Path]:
    return sorted(path for path in states.iterdir() if path.name.partition("_")[0] == number)


if __name__ == "__main__":
    states = Path(os.environ["SLURM_STAND_IN"])
    globals()[sys.argv[1]](*sys.argv[2:])
