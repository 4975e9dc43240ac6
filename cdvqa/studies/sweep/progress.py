"""The progress of a study: a line for each run that ends and, on a terminal, a live table."""

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from statistics import median
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.table import Column, Table

from cdvqa.errors import InputError
from cdvqa.runs.folder import Run, read_results
from cdvqa.runs.lock import writer_of
from cdvqa.studies.sweep.body import DONE, PARENT_FAILED, last_line
from cdvqa.studies.sweep.plan import Job

LAST_FAILURES = 5
REFRESH = 1.0  # seconds


class Progress:
    """Shows the states of jobs; a context manager.

    Args:
        jobs: all jobs of the study, with their parents.
        done: those that were done before.
        at_once: how many run at a time.
    """

    def __init__(self, jobs: Sequence[Job], done: Iterable[Job], at_once: int) -> None:
        self.jobs, self.at_once = jobs, at_once
        self.outcomes = dict.fromkeys(done, DONE)
        self.times = Times(self.outcomes)
        self.console, self.shown = Console(), 0.0
        self.live = Live(console=self.console, auto_refresh=False) if self.console.is_terminal else None

    def __enter__(self) -> "Progress":
        if self.live:
            self.live.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.live:
            self.live.stop()

    def show(self, ended: Mapping[Job, str]) -> None:
        """Print the jobs that have just ended, and refresh the table."""
        self.outcomes |= ended
        for job, outcome in ended.items():
            if outcome == DONE:
                self.times.add(job)
            self.console.print(ended_line(job, outcome), markup=False, highlight=False, soft_wrap=True)
        if self.live and (ended or time.monotonic() - self.shown > REFRESH):
            self.live.update(self.table(), refresh=True)
            self.shown = time.monotonic()

    def table(self) -> Group:
        """Counts, the jobs that are running, and the last failures."""
        waiting = [job for job in self.jobs if job not in self.outcomes]
        running = {job: state for job in waiting if (state := training_state(job.run))}
        counts = Counter(self.outcomes.values()) + Counter(running=len(running), queued=len(waiting) - len(running))
        title = ", ".join(f"{number} {name}" for name, number in counts.items())
        table = Table.grid(Column(overflow="fold"), Column(overflow="fold"), padding=(0, 2))
        for job, state in running.items():
            table.add_row(job.name, state)
        failed = [job for job, outcome in self.outcomes.items() if outcome != DONE]
        for job in failed[-LAST_FAILURES:]:
            table.add_row(job.name, f"{self.outcomes[job]}: {job.log}")
        return Group(f"{title}; {self.times.left(waiting, self.at_once)}", table)


class Times:
    """How long runs took, and how long others will take, by data set, backbone, stage and method.

    Args:
        jobs: runs that are finished.
    """

    def __init__(self, jobs: Iterable[Job]) -> None:
        self.seconds: dict[tuple[str, ...], list[float]] = {}
        for job in jobs:
            self.add(job)

    def add(self, job: Job) -> None:
        """Count a run; one that is only recorded has no folder here, and is left out."""
        with suppress(InputError, ValueError, TypeError):  # a damaged record says nothing on times
            if job.run.finished:
                record = job.run.read()
                began, ended = (datetime.fromisoformat(record[name]) for name in ("started", "finished"))
                self.seconds.setdefault(kind_of(job), []).append((ended - began).total_seconds())

    def left(self, waiting: Sequence[Job], at_once: int) -> str:
        """The time that jobs will take, in words; a kind without a finished run takes the median of all."""
        if not self.seconds:
            return "time left unknown before the first run has ended"
        usual = median(second for kind in self.seconds.values() for second in kind)
        minutes = sum(median(self.seconds.get(kind_of(job), [usual])) for job in waiting) / at_once / 60
        return f"about {minutes:.0f} min left" if minutes < 120 else f"about {minutes / 60:.1f} h left"


def kind_of(job: Job) -> tuple[str, ...]:
    """What decides how long a job takes: data set, backbone, stage and method, as its folder names them."""
    data, backbone, name, _ = job.run.folder.parts[-4:]
    return data, backbone, name[: len("stage1")], "omp" if "_omp_" in name else ""


def ended_line(job: Job, outcome: str) -> str:
    """One line on a job that has ended: its accuracies, or why it failed."""
    if outcome == DONE:
        splits = read_results(job.run)["splits"]
        scores = ", ".join(f"{split} {result['all']:.2f}" for split, result in splits.items() if "all" in result)
        return f"{job.name}: {scores}"
    if outcome == PARENT_FAILED:
        return f"{job.name}: {outcome}: {', '.join(source.name for source in job.sources)}"
    return f"{job.name}: {outcome}: {last_line(job.log)} (log: {job.log})"


def training_state(run: Run) -> str:
    """Epochs done and the last development accuracy of a run that a process is writing; empty if none is."""
    if not writer_of(run.folder):
        return ""
    text = run.metrics.read_text() if run.metrics.is_file() else ""
    lines = text[: text.rfind("\n") + 1].splitlines()  # the last one may be half-written
    epochs = sum(",train/loss/epoch," in line for line in lines)
    accuracy = next((line.rpartition(",")[2] for line in reversed(lines) if ",val/accuracy/all," in line), None)
    return f"epoch {epochs}" + (f", dev {float(accuracy):.2f}" if accuracy else "")
