"""The runs that a study needs, each with its folder and the run that it starts from, before any of them exists."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from cdvqa.cli.commands import readable_error_behind
from cdvqa.cli.configs import shipped
from cdvqa.data.datasets import DataSet, made_by
from cdvqa.errors import InputError
from cdvqa.objectives import find_objective
from cdvqa.runs.folder import Run
from cdvqa.runs.lineage import Source
from cdvqa.studies.sweep.study import Point


@dataclass(frozen=True)
class Data:
    """The data of a run.

    Attributes:
        name: of the data set.
        kind: its class.
        root: the folder of its questions.
        visual: the feature file, or the folder of images where the backbone sees these.
    """

    name: str
    kind: type[DataSet]
    root: Path
    visual: Path

    def refuse_missing(self) -> None:
        """Raise InputError if a file that the run reads is not there; none is opened."""
        made = made_by(self.name, self.root)
        if not self.root.is_dir():
            remedy = made or "point --data.root at the official question files"
            raise InputError(f"{self.root}: no such folder, of data set {self.name}; {remedy}")
        if not self.visual.exists():
            remedy = made or "`cdvqa check` says where it may be obtained"
            raise InputError(f"{self.visual}: no such file or folder, of data set {self.name}; {remedy}")
        self.kind().refuse_missing(self.root)


@dataclass(frozen=True)
class Job:
    """One run.

    Attributes:
        run: its folder.
        identity: its digest.
        seed: its seed.
        options: arguments of `fit` and `test`, without the seed and where it starts.
        data: what it reads.
        parent: the run that it starts from, or None.
        teacher: the run whose outputs it learns from, or None.
        source: this run as the parent of others, known before it exists.
    """

    run: Run
    identity: str
    seed: int
    options: tuple[str, ...]
    data: Data
    parent: "Job | None" = None
    teacher: "Job | None" = None
    source: Source | None = field(default=None, compare=False)

    @property
    def args(self) -> list[str]:
        """Arguments of `fit` and `test`."""
        start = [f"--model.init_from={self.parent.run.folder}"] if self.parent else []
        learn = [f"--model.teacher={self.teacher.run.folder}"] if self.teacher else []
        return [*self.options, f"--seed_everything={self.seed}", *start, *learn]

    @property
    def name(self) -> str:
        return " ".join(self.run.folder.parts[-4:])  # data, backbone, run, seed

    @property
    def log(self) -> Path:
        """What its commands print."""
        return self.run.folder.with_name(f"{self.run.folder.name}.log")

    @property
    def chain(self) -> list["Job"]:
        """The job and those that it is built on, the first one first."""
        return [*(job for source in self.sources for job in source.chain), self]

    @property
    def sources(self) -> list["Job"]:
        """The runs that it needs: its parent and its teacher."""
        return [source for source in (self.parent, self.teacher) if source]

    @property
    def depth(self) -> int:
        """The length of its longest chain of runs, itself included."""
        return 1 + max((source.depth for source in self.sources), default=0)

    def with_seed(self, seed: int) -> "Job":
        """The same run with another seed; the identity stays."""
        run = Run(self.run.folder.with_name(f"seed{seed}"))
        parent, teacher = (source and source.with_seed(seed) for source in (self.parent, self.teacher))
        return replace(self, run=run, seed=seed, parent=parent, teacher=teacher)


def jobs_of(points: Iterable[Point], logs: Path) -> list[Job]:
    """The jobs of a study's points, ordered by seed: an interrupted study has complete seeds.

    Raises:
        InputError: a setting is wrong, two points are the same run, or a run's data set is not there.
    """
    jobs: dict[tuple[Path, int], tuple[int, Point, Job]] = {}
    for number, point in enumerate(points):
        for seed in point.seeds:
            try:
                job = job_of(point, seed, logs)
            except Exception as error:
                raise InputError(f"{point}: {readable_error_behind(error) or repr(error)}") from error
            if twin := jobs.get((job.run.folder, seed)):
                raise InputError(f"{point}: the same run as {twin[1]}; leave one out")
            jobs[job.run.folder, seed] = (number, point, job)
    return [job for _, _, job in sorted(jobs.values(), key=lambda entry: (entry[2].seed, entry[0]))]


def with_parents(jobs: Iterable[Job]) -> list[Job]:
    """The jobs and all that they are built on, parents first, each once."""
    return list({link.run.folder: link for job in jobs for link in job.chain}.values())


def job_of(point: Point, seed: int, logs: Path) -> Job:
    """The last job of a point's chain; InputError if it has a teacher that no objective needs."""
    teacher = job_of(point.teacher, seed, logs) if point.teacher else None
    job = None
    for stage, objective in stages_of(point.pipeline, point.method):
        config = config_of(stage, objective)
        named = {} if config == f"stage{stage}_{objective or 'omp'}.yaml" else {"model.objective": objective}
        sparsity = {f"model.sparsity.{name}": value for name, value in point.sparsity.items()}
        settings = named | (sparsity if stage == 2 else {}) | dict(point.settings[stage])
        configs = [word for name in (config, *point.configs) for word in ("--config", name)]
        taught = teacher if objective and "teacher" in find_objective(objective).needs else None
        job = planned((*configs, *(f"--{name}={value}" for name, value in settings.items())), job, taught, seed, logs)
    assert job is not None
    if teacher and not any(link.teacher for link in job.chain):
        raise InputError(f"teacher: no objective of {'+'.join(point.pipeline)} needs one; leave it out")
    return job


def stages_of(pipeline: Sequence[str], method: str) -> list[tuple[int, str | None]]:
    """The stages of a pipeline, each with its objective; None where one-shot pruning trains nothing."""
    objectives = [*pipeline[:1], None, *pipeline[1:]] if method == "omp" else pipeline
    return list(enumerate(objectives, 1))


def config_of(stage: int, objective: str | None) -> str:
    """The shipped config of a stage and objective; that of BCE for an objective that has none."""
    name = f"stage{stage}_{objective or 'omp'}.yaml"
    return name if (shipped() / name).is_file() else f"stage{stage}_bce.yaml"


def planned(options: tuple[str, ...], parent: Job | None, teacher: Job | None, seed: int, logs: Path) -> Job:
    """The job of these options, parent, teacher and seed."""
    options = (*options, f"--trainer.default_root_dir={logs}")
    # An identity does not depend on the seed, unless an option names a run of one seed.
    if any("/seed" in option for option in options):
        return identified(options, parent, teacher, seed)
    first = (source and source.with_seed(0) for source in (parent, teacher))
    return identified(options, *first, 0).with_seed(seed)


@cache
def identified(options: tuple[str, ...], parent: Job | None, teacher: Job | None, seed: int) -> Job:
    """The job of these options; its folder is known before its parent and its teacher have run."""
    from cdvqa.cli.inspect import ConfigInspector

    logging.disable(logging.INFO)  # messages about a config belong in the log of its run
    try:
        learn = [f"--model.teacher={teacher.run.folder}"] if teacher else []
        config = ConfigInspector([*options, f"--seed_everything={seed}", *learn])
    finally:
        logging.disable(logging.NOTSET)
    config.refuse_missing_model()  # the weights enter the identity
    run = config.plan(parent.source if parent else None, teacher.source if teacher else None)
    record = config.entries | config.model.lineage.entries()
    network = run.model if config.model.stage == 1 else run.subnetwork
    identity = record["identity"]
    source = Source(network, {"identity": identity}, record)
    data, sees_images = config.datamodule, config.model.backbone.image_format is not None
    visual = data.images_folder if sees_images else data.features_file
    read = Data(data.name, type(data.data_set), data.root, visual)
    return Job(run, identity, seed, options, read, parent, teacher, source)
