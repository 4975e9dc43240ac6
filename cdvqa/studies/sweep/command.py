"""`cdvqa sweep`: run every run of a study."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, Optional

from jsonargparse import ActionYesNo
from jsonargparse.typing import PositiveInt

from cdvqa.cli.parsing import OneLineParser
from cdvqa.errors import InputError, Stopped
from cdvqa.studies.sweep.body import DONE, FAILED, is_done
from cdvqa.studies.sweep.launchers import Launcher, Local, Submitit
from cdvqa.studies.sweep.plan import Job, jobs_of, with_parents
from cdvqa.studies.sweep.progress import Progress, Times
from cdvqa.studies.sweep.records import Lines, append_lines, line_of, read_lines
from cdvqa.studies.sweep.study import RECORDS, Study, read_study

POLL = 0.2  # seconds between two checks of the jobs
RECORDED = "recorded"


@dataclass(frozen=True)
class StudyOptions:
    """The options that `sweep` and `search` share.

    Args:
        study: a file, or the name of a shipped study, such as fig2.
        size: micro puts the study on the small embedded world.
        seeds: how many seeds, in place of the study's.
        logs: the logs folder. Runs with the same settings are shared with whatever else is there.
        records: folder of <study>.jsonl (of a search <study>-<method>.jsonl, and its result as .md), to which every
            finished run is added; a run that is there counts as done.
        jobs: how many runs at a time.
        launcher: local, slurm (arrays of jobs, by submitit), or submitit's own local processes.
        cluster: options of submitit, such as {gpus_per_node: 1, timeout_min: 600, slurm_partition: gpu}.
    """

    study: str
    size: Optional[Literal["micro"]] = None
    seeds: Optional[PositiveInt] = None
    logs: Path = Path("logs")
    records: Path = RECORDS
    jobs: PositiveInt = 2
    launcher: Literal["local", "slurm", "submitit"] = "local"
    cluster: Optional[dict[str, Any]] = None

    @classmethod
    def add_to(cls, parser: OneLineParser) -> None:
        """Add the options to a command's parser."""
        parser.add_argument("study", help="A file, or the name of a shipped study, such as fig2.")
        parser.add_class_arguments(cls, skip={"study"}, as_group=False)

    @classmethod
    def take_from(cls, given: dict[str, Any]) -> "StudyOptions":
        """The options, taken out of those that a parser returned."""
        return cls(**{field.name: given.pop(field.name) for field in fields(cls)})

    def read_study(self) -> Study:
        """The study; InputError if its file is wrong."""
        return read_study(self.study, self.size, self.seeds, self.records)

    def make_launcher(self, name: str) -> Launcher:
        """The launcher; submitit writes its files below `<logs>/submitit/<name>`."""
        if self.launcher == "local":
            return Local(self.jobs)
        cluster = "slurm" if self.launcher == "slurm" else "local"
        return Submitit(self.logs / "submitit" / name, self.jobs, cluster, self.cluster or {})


def run(args: list[str]) -> None:
    """Run `cdvqa sweep` with command-line arguments."""
    parser = OneLineParser(prog="cdvqa sweep", description=sweep.__doc__.splitlines()[0])  # type: ignore[union-attr]
    StudyOptions.add_to(parser)
    parser.add_argument("--dry_run", action=ActionYesNo, default=False, help="Only list the runs, and what exists.")
    parser.add_argument("--rerun", action=ActionYesNo, default=False, help="Do not count committed records as done.")
    given = parser.parse_args(args[1:]).as_dict()
    sweep(StudyOptions.take_from(given), **given)


def sweep(options: StudyOptions, dry_run: bool = False, rerun: bool = False) -> None:
    """Run every run of a study and what these are built on; finished runs are skipped, interrupted ones go on.

    Args:
        options: the study, and where its runs are made.
        dry_run: only list the runs, what exists, and what it will cost.
        rerun: do not count the runs in the records as done.
    """
    plan = options.read_study()
    asked, path = jobs_of(plan.points, options.logs), options.records / f"{plan.name}.jsonl"
    recorded = {} if rerun else read_lines(path)
    if dry_run:
        print(listing(asked, recorded, options.jobs, plan.cost))
        return
    failed = complete(asked, path, recorded, options.make_launcher(plan.name), options.jobs)
    if failed:
        counts = Counter(failed.values())
        raise Stopped(f"{plan.name}: {', '.join(f'{number} {what}' for what, number in counts.items())}; see the logs")
    print(f"{plan.name}: {len(asked)} runs are done: {path}")


def complete(asked: Sequence[Job], path: Path, recorded: Lines, launcher: Launcher, at_once: int) -> dict[Job, str]:
    """Run the jobs that are missing and the jobs that they start from, and add the results to the records.

    Args:
        asked: jobs whose results are wanted.
        path: the records.
        recorded: those of its lines that count as done.
        launcher: runs the jobs.
        at_once: how many at a time.

    Returns:
        Jobs that failed, and how.

    Raises:
        InputError: a data set, or a file of it, is missing.
    """
    everything = with_parents(asked)
    waiting = missing(asked, recorded)
    for data in dict.fromkeys(job.data for job in waiting):  # before anything runs
        data.refuse_missing()
    damaged = record(path, [job for job in asked if is_done(job)])
    with Progress(everything, [job for job in everything if job not in waiting], at_once) as progress:
        progress.show(damaged)
        return damaged | launch(launcher, waiting, progress, lambda done: record(path, set(done) & set(asked)))


def missing(asked: Sequence[Job], recorded: Lines) -> list[Job]:
    """The jobs to run, parents first: those that are neither done nor recorded, and what they start from."""
    wanted = [job for job in asked if state_of(job, recorded) not in (DONE, RECORDED)]
    return [job for job in with_parents(wanted) if not is_done(job)]


def state_of(job: Job, recorded: Lines) -> str:
    """`done`, `recorded` (done elsewhere), `interrupted` or `queued`."""
    if is_done(job):
        return DONE
    if (job.identity, job.seed) in recorded:
        return RECORDED
    return "interrupted" if job.run.exists else "queued"


def launch(
    launcher: Launcher, jobs: Sequence[Job], progress: Progress, on_done: Callable[[Sequence[Job]], dict[Job, str]]
) -> dict[Job, str]:
    """Run jobs, and once more those that failed or whose parent failed; return those that failed again, and how.

    `on_done` takes jobs that are done, and returns those that failed all the same.
    """
    failed = dict.fromkeys(jobs, "")
    for last in (False, True):
        launcher.start(list(failed))
        failed = {}
        try:
            while launcher.open:
                ended = launcher.poll()
                ended |= on_done([job for job, outcome in ended.items() if outcome == DONE])
                failed |= {job: outcome for job, outcome in ended.items() if outcome != DONE}
                progress.show({job: outcome for job, outcome in ended.items() if last or outcome == DONE})
                time.sleep(POLL)
        finally:
            launcher.stop()
        if not failed:
            break
    return failed


def record(path: Path, jobs: Iterable[Job]) -> dict[Job, str]:
    """Add jobs that are done to the study's records, if these do not have their results yet.

    Returns:
        Jobs of which a file was damaged, as failed; their logs say what is wrong.
    """
    lines, damaged = [], {}
    for job in jobs:
        try:
            lines.append(line_of(job.run))
        except InputError as error:
            damaged[job] = FAILED
            with job.log.open("a", encoding="utf-8") as log:
                print(f"cdvqa sweep: {error}", file=log)
    if lines:  # there are none at most checks: then the records need not be read
        known = {key: line["results"] for key, line in read_lines(path).items()}
        if new := [line for line in lines if known.get((line["identity"], line["seed"])) != line["results"]]:
            append_lines(path, new)
    return damaged


def listing(asked: Sequence[Job], recorded: Lines, at_once: int, cost: Mapping[str, float]) -> str:
    """The runs of a study, what exists of them, and the time that the others will take."""
    jobs, waiting = with_parents(asked), missing(asked, recorded)
    states = {job: state_of(job, {} if job in waiting else recorded) for job in jobs}
    lines = [f"{state:<12}{job.name}" for job, state in states.items()]
    left = Times(job for job, state in states.items() if state == DONE).left(waiting, at_once)
    lines.append(f"{len(states)} runs, {len(waiting)} to run, {at_once} at a time; {left}")
    if hours := cost.get("gpu_hours"):
        lines.append(f"at full size: about {hours:,g} GPU hours for {cost['runs']:,} runs (an estimate)")
    return "\n".join(lines)
