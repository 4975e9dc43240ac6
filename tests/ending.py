"""Processes that a test started and that have to end. Imports little: what computes regions imports it too."""

import os
import signal
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path


def errors_of(processes: Sequence[subprocess.Popen[str]], seconds: float = 240) -> list[str]:
    """What each wrote to stderr, which is open until its last child has ended. If one takes longer, all are ended.

    All are read at once, for one whose pipe is full waits. Each was started in a session of its own.
    """
    try:
        with ThreadPoolExecutor(len(processes)) as threads:
            return list(threads.map(lambda process: process.communicate(timeout=seconds)[1], processes))
    except subprocess.TimeoutExpired:
        end(processes)
        raise


def end(processes: Sequence[subprocess.Popen[str]]) -> None:
    """End these processes and their groups; torchrun gets time to end its workers, which have groups of their own."""
    for process in processes:
        process.terminate()
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(40)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def has_ended(pid: int | str) -> bool:
    """Whether a process has ended; as an orphan it may stay in /proc, where process 1 collects none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True
