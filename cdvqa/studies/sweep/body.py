"""What every launcher does with a job: `cdvqa fit` and `cdvqa test`, in this process."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pytorch_lightning.utilities import rank_zero_only

from cdvqa.cli.commands import main
from cdvqa.cli.training import VQACLI  # noqa: F401  # imported once, before any job is forked
from cdvqa.errors import InputError
from cdvqa.runs.folder import read_results
from cdvqa.runs.lock import writer_of
from cdvqa.studies.sweep.plan import Job

DONE, FAILED, PARENT_FAILED = "done", "failed", "parent failed"
POLL = 5.0  # seconds between two checks of a run that another process writes


def run_job(job: Job) -> str:
    """Train and test one run; its output is appended to `job.log`. A run that was interrupted is resumed.

    Where another process is writing the run, its parent or its teacher, this one waits for it.

    Returns:
        `DONE`, `FAILED`, or `PARENT_FAILED` where there is no finished run to start from.
    """
    with output_to(job.log):
        try:
            if not all(map(finished, job.sources)):
                return PARENT_FAILED
            trained = finished(job)
            if trained and read_results(job.run):
                return DONE
            resume = ["--ckpt_path=last"] if job.run.exists else []
            for command in [["test"]] if trained else [["fit", *resume], ["test"]]:
                if main([*command, *job.args, "--trainer.enable_progress_bar=false"]):
                    # Another study may have started this run in the meantime. With several processes to a run, the
                    # writer may be one of our own.
                    alone = os.environ.get("SLURM_NTASKS", "1") == "1"
                    return run_job(job) if alone and (writer_of(job.run.folder) or is_done(job)) else FAILED
        except InputError as error:  # a file of the run was damaged
            print(f"cdvqa sweep: {error}")
            return FAILED
    return DONE


@contextmanager
def output_to(log: Path) -> Iterator[None]:
    """Append what this process prints to `log`, also what C libraries print."""
    log.parent.mkdir(parents=True, exist_ok=True)
    before = {number: os.dup(number) for number in (1, 2)}
    try:
        with log.open("ab") as file:
            for number in before:
                os.dup2(file.fileno(), number)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, copy in before.items():
            os.dup2(copy, number)
            os.close(copy)


def finished(job: Job) -> bool:
    """Wait while a process writes the run, then say whether it has been trained to its end.

    Of several processes that train one run, only rank 0 waits: to the others it is the writer.

    Raises:
        InputError: run.json is broken, of an older cdvqa, or gone from beside results.
    """
    while getattr(rank_zero_only, "rank", 0) == 0 and writer_of(job.run.folder):
        time.sleep(POLL)
    return (job.run.exists or job.run.results.exists()) and job.run.read()["finished"] is not None


def is_done(job: Job) -> bool:
    """Whether the run has been trained and tested. A damaged one has not: running it says what is wrong."""
    try:
        return bool(job.run.finished and read_results(job.run))
    except InputError:
        return False


def last_line(log: Path) -> str:
    """The last line of a log that is not empty: the error of a command that failed."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.is_file() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
