"""Many runs on one machine, a few at a time, each by `cdvqa fit` and `cdvqa test` in processes of their own."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from cdvqa.errors import InputError, Stopped
from cdvqa.files import read_json
from cdvqa.runs.folder import Run
from cdvqa.runs.lineage import Source

# Two single-threaded runs finish sooner than one run on two threads: the embedded worlds' matrices are small.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Job:
    """One run.

    Attributes:
        run: its folder.
        args: arguments of `fit` and `test`.
        after: the run it starts from, or None.
        source: this run as the parent of others, before it exists.
    """

    run: Run
    args: tuple[str, ...]
    after: Run | None = None
    source: Source | None = field(default=None, compare=False)

    @property
    def name(self) -> str:
        return " ".join(self.run.folder.parts[-4:])  # data, backbone, run, seed


def run_jobs(jobs: Sequence[Job], at_once: int) -> None:
    """Run all jobs, parents first; finished runs are skipped, interrupted ones resumed.

    Raises:
        InputError, Stopped: a job failed for such a reason; the message names its log.
    """
    by_run = {job.run: job for job in jobs}
    order = TopologicalSorter({job.run: {job.after} if job.after in by_run else set() for job in jobs})
    order.prepare()
    running: dict[Future[None], Run] = {}
    with ThreadPoolExecutor(at_once) as pool:
        while order.is_active():
            for run in order.get_ready():
                running[pool.submit(run_job, by_run[run])] = run
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                run = running.pop(future)
                if error := future.exception():
                    for waiting in running:
                        waiting.cancel()
                    raise error
                order.done(run)


def run_seeds(jobs: Mapping[Any, Sequence[Job]], at_once: int) -> None:
    """`run_jobs` on rows of one job for each seed, seed by seed: an interrupted study has complete seeds."""
    run_jobs([job for seed in zip(*jobs.values(), strict=True) for job in seed], at_once)


def run_job(job: Job) -> None:
    """Train and test one run, and print one line about it."""
    started = time.monotonic()
    if not job.run.finished:
        call(job, "fit", *(["--ckpt_path", "last"] if job.run.exists else []))
    if not job.run.results.is_file():
        call(job, "test")
    splits = read_json(job.run.results)["splits"]
    figures = ", ".join(f"{split} {result['all']:.2f}" for split, result in splits.items())
    print(f"{job.name}: {figures} ({time.monotonic() - started:.0f} s)", flush=True)


def call(job: Job, command: str, *extra: str) -> None:
    """One `cdvqa` command in a process of its own, its output in `<run>/<command>.log`."""
    log = job.run.folder.with_name(f"{job.run.folder.name}.{command}.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as file:
        arguments = [sys.executable, "-m", "cdvqa", command, *job.args, *extra, "--trainer.enable_progress_bar=false"]
        status = subprocess.run(arguments, stdout=file, stderr=subprocess.STDOUT, env=ENVIRONMENT).returncode
    if status:
        last = log.read_text(encoding="utf-8").strip().splitlines()[-1:]
        kind = InputError if status == 2 else Stopped
        raise kind(f"{job.name}: `cdvqa {command}` failed ({' '.join(last)}); see {log}")


def overlay_of(backbone: str) -> tuple[str, ...]:
    """The arguments for the world `scenes` and its small model; `scenes.yaml` has LXMERT's."""
    own = ("--config", f"scenes_{backbone}.yaml") if backbone != "lxmert" else ()
    return ("--config", "scenes.yaml", *own)


def pipeline_job(
    logs: Path,
    stage: int,
    pipeline: Sequence[str],
    seed: int,
    overlay: Sequence[str],
    method: str = "mask",
    zeros: float = 0.5,
    criterion: str = "magnitude",
) -> Job:
    """The job of one stage of a pipeline, with the run it starts from.

    Args:
        logs: the logs folder.
        stage: 1, 2 or 3.
        pipeline: objectives from stage 1 to this one; one-shot pruning adds none.
        seed: the run's seed.
        overlay: arguments that name data and model, such as `("--config", "scenes.yaml")`.
        method: `mask` or `omp` (stages 2 and 3).
        zeros: share of zeros (stages 2 and 3).
        criterion: `magnitude` or `random`: what picks the first mask.
    """
    objectives = list(pipeline)
    one_shot = stage == 2 and method == "omp"
    config = "stage2_omp.yaml" if one_shot else f"stage{stage}_{objectives[-1]}.yaml"
    args = ["--config", config, *overlay, f"--seed_everything={seed}", f"--trainer.default_root_dir={logs}"]
    if stage == 1:
        return planned_job(tuple(args))
    settings = {"method": method, "overall": zeros, "criterion": criterion}
    args += [f"--model.sparsity.{name}={value}" for name, value in settings.items()]
    above = objectives if one_shot else objectives[:-1]
    parent = pipeline_job(logs, stage - 1, above, seed, overlay, method, zeros, criterion)
    return planned_job((*args, f"--model.init_from={parent.run.folder}"), parent)


@cache
def planned_job(args: tuple[str, ...], parent: Job | None = None) -> Job:
    """The job of these arguments; its folder is known before its parent has run."""
    from cdvqa.cli.inspect import ConfigInspector

    config = ConfigInspector(list(args))
    run = config.plan(parent.source if parent else None)
    record = config.entries | config.model.lineage.entries()
    network = run.model if config.model.stage == 1 else run.subnetwork
    return Job(run, args, parent.run if parent else None, Source(network, {"identity": record["identity"]}, record))
