"""Where the jobs of a study run: on this machine, or on a cluster. No launcher trains in the process that calls it."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from cdvqa.errors import InputError, Stopped
from cdvqa.studies.sweep.body import DONE, FAILED, PARENT_FAILED, run_job
from cdvqa.studies.sweep.plan import Job

POLL = 2.0  # seconds between two checks of the jobs of a cluster: each asks a shared file system about every job
STATUS = {DONE: 0, FAILED: 1, PARENT_FAILED: 3}  # exit status of a local job's process


class Launcher(ABC):
    """Runs jobs, each by `run_job` in a process of its own, and none before the job that it is built on."""

    @abstractmethod
    def start(self, jobs: Sequence[Job]) -> None:
        """Take jobs, parents first. A parent that is not among them has run."""

    @abstractmethod
    def poll(self) -> dict[Job, str]:
        """Jobs that have ended since the last call, each with what `run_job` returned; never waits."""

    @property
    @abstractmethod
    def open(self) -> int:
        """How many jobs have not ended."""

    @abstractmethod
    def stop(self) -> None:
        """End what depends on the calling process."""


class Local(Launcher):
    """A few jobs at a time on this machine, forked from one process that has imported everything.

    Args:
        at_once: how many; each has one thread for arithmetic, as small matrices gain nothing from more.
    """

    def __init__(self, at_once: int) -> None:
        self.at_once = at_once
        self.waiting: dict[Job, None] = {}  # in order
        self.running: dict[Job, BaseProcess] = {}
        os.environ["OMP_NUM_THREADS"] = "1"
        self.server = multiprocessing.get_context("forkserver")
        self.server.set_forkserver_preload(["cdvqa.studies.sweep.body"])

    def start(self, jobs: Sequence[Job]) -> None:
        self.waiting = dict.fromkeys(jobs)

    def poll(self) -> dict[Job, str]:
        ended: dict[Job, str] = {}
        for job, process in list(self.running.items()):
            if not process.is_alive():
                del self.running[job]
                ended[job] = next((text for text, status in STATUS.items() if status == process.exitcode), FAILED)
        for job in list(self.waiting):  # parents first, so a failure reaches children of children
            if any(ended.get(source, DONE) != DONE for source in job.sources):
                del self.waiting[job]
                ended[job] = PARENT_FAILED
        for job in list(self.waiting):
            ready = not any(source in self.waiting or source in self.running for source in job.sources)
            if ready and len(self.running) < self.at_once:
                del self.waiting[job]
                self.running[job] = self.server.Process(target=run_in_process, args=(job, os.getpid()))
                self.running[job].start()
        return ended

    @property
    def open(self) -> int:
        return len(self.waiting) + len(self.running)

    def stop(self) -> None:
        for process in self.running.values():
            process.terminate()
        for process in self.running.values():
            process.join()


def run_in_process(job: Job, controller: int) -> None:
    """`run_job` in a forked process, which ends with `controller`; its outcome is the exit status."""
    threading.Thread(target=end_with, args=(controller,), daemon=True).start()
    outcome = run_job(job)
    sys.exit(STATUS[outcome])


def end_with(controller: int) -> None:
    """End this process when the process `controller` is gone: a run may be killed at any moment, and is resumed."""
    while True:
        try:
            os.kill(controller, 0)
        except ProcessLookupError:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(1.0)


class Submitit(Launcher):
    """Jobs on a SLURM cluster: an array for each level of parents and children, which starts after the level before.

    The calling process may end: the arrays go on. On a single machine (`cluster` "local") submitit knows no
    dependencies, so there a level is submitted when the one before has ended.

    Args:
        folder: for submitit's own files and logs.
        at_once: how many jobs of an array may run at a time.
        cluster: "slurm" or "local".
        options: of submitit, such as `timeout_min`, `gpus_per_node`, `slurm_partition`.
    """

    def __init__(self, folder: Path, at_once: int, cluster: str, options: Mapping[str, Any]) -> None:
        self.submitted: dict[Job, Any] = {}  # jobs and submitit's handles
        self.polled = 0.0
        self.levels: list[list[Job]] = []
        self.dependent = cluster == "slurm"
        self.folder, self.cluster = folder, cluster
        self.options = {"name": "cdvqa", **({"slurm_array_parallelism": at_once} if self.dependent else {}), **options}
        self._executor()  # refuses wrong options before any job is submitted

    def _executor(self, **more: Any) -> Any:
        """An executor of submitit; its options cannot be taken back, so each level has its own."""
        import submitit

        try:
            executor = submitit.AutoExecutor(folder=self.folder, cluster=self.cluster)
            executor.update_parameters(**self.options, **more)
        except (RuntimeError, NameError, ValueError, TypeError) as error:
            raise InputError(f"--launcher {self.cluster}: {error}") from error
        return executor

    def start(self, jobs: Sequence[Job]) -> None:
        levels: dict[int, list[Job]] = {}
        for job in jobs:
            levels.setdefault(job.depth, []).append(job)
        self.levels = [levels[depth] for depth in sorted(levels)]
        before = None
        while self.dependent and self.levels:
            before = self._submit(self.levels.pop(0), before)

    def _submit(self, jobs: list[Job], after: str | None = None) -> str:
        """Submit a level; return the array's id."""
        executor = self._executor(**({"slurm_dependency": f"afterany:{after}"} if after else {}))
        try:
            with executor.batch():
                handles = [executor.submit(Requeued(), job) for job in jobs]
        except RuntimeError as error:  # sbatch refused it; submitit shows its whole output
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            said = next((line for line in lines if "error" in line.lower()), lines[-1])
            raise Stopped(f"--launcher {self.cluster}: {said}") from error
        self.submitted |= dict(zip(jobs, handles, strict=True))
        return str(handles[0].job_id).partition("_")[0]

    def poll(self) -> dict[Job, str]:
        if not self.submitted and self.levels:
            self._submit(self.levels.pop(0))
        if time.monotonic() - self.polled < POLL:
            return {}
        self.polled, ended = time.monotonic(), {}
        for job, handle in list(self.submitted.items()):
            if handle.done():
                del self.submitted[job]
                failure = handle.exception()
                ended[job] = FAILED if failure else handle.results()[0]
        return ended

    @property
    def open(self) -> int:
        return len(self.submitted) + sum(map(len, self.levels))

    def stop(self) -> None:
        if not self.dependent:
            for handle in self.submitted.values():
                handle.cancel(check=False)


class Requeued:
    """`run_job` as submitit's task: a job that is preempted or runs out of time is queued again and resumes its run."""

    def __call__(self, job: Job) -> str:
        return run_job(job)

    def checkpoint(self, job: Job) -> Any:
        """What submitit calls before it puts the job back into the queue."""
        import submitit

        return submitit.helpers.DelayedSubmission(self, job)
