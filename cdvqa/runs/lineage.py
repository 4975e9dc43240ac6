"""Finding runs, and what a run inherits from those it is built on."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities import rank_zero_warn

from cdvqa.errors import InputError, nearest
from cdvqa.objectives import OBJECTIVES
from cdvqa.runs.folder import DIGITS, Run, network_file, run_name, run_of
from cdvqa.runs.identity import BASELINE, WEIGHTS, differences, differing, digest_of, flatten, source_identity

UNKNOWN = "unknown"
SHIPPED = ("bce", "ce", "lmh", "lpf", "rubi")  # objectives that have configs of their own
LEARNT_FROM = ("model.teacher", "model.objective_options.")
SEEN = ("dev", "last", UNKNOWN, "test")  # how much of the test questions a selection has seen, in rising order
HELD_OUT = ("data.dev_split", "data.dev_share", "data.split_seed")
# Settings in which an evaluation may differ from the run. The network itself says which word pieces it needs.
TRAINING = ("trainer.", *WEIGHTS, "model.teacher", "data.tokenizer", "data.extra_text")


@dataclass(frozen=True)
class Source:
    """A network that a run is built on: its parent, a teacher, a bias model.

    Attributes:
        path: the network's file.
        identity: what stands for it among the settings: `identity` (and `seed`) of a run, `tensors` of a bare file.
        record: the run's run.json; empty for a bare file.
    """

    path: Path
    identity: Mapping[str, Any]
    record: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, given: str, seed: int, flag: str = "--model.init_from") -> "Source":
        """What `flag` names: a run folder, a file inside one, or a network file of no run.

        Raises:
            InputError: there is no such network, or its run is not finished, or is of an older cdvqa.
        """
        run = run_of(Path(given))
        record = run.read() if run else {}
        path = network_file(given, flag)
        if run and record["finished"] is None:
            raise InputError(f"{run.folder}: this run is not finished; finish it with --ckpt_path last first")
        return cls(path, source_identity(path, seed), record)


@dataclass(frozen=True)
class Lineage:
    """What a run inherits.

    Attributes:
        pipeline: objectives from stage 1 on; `unknown` stands for those of a network without a record.
        plan: the sparsity, with settled shares; None in stage 1, and where it is unknown.
        selection: the greatest of its own selection and of those it is built on.
        parent: where the stage starts; None where it starts from published weights, or is not to be started.
        sources: all that it is built on, the parent among them; empty where the stage is not to be started.
    """

    pipeline: list[str]
    plan: Mapping[str, Any] | None
    selection: str
    parent: Source | None = None
    sources: Sequence[Source] = ()

    @classmethod
    def recorded(cls, record: Mapping[str, Any]) -> "Lineage":
        """The lineage of an existing run."""
        return cls(record["pipeline"], record["sparsity"], record["selection"])

    def entries(self) -> dict[str, Any]:
        """Its entries in run.json."""
        parent = self.parent and {"network": str(self.parent.path), **self.parent.identity}
        if self.parent and self.parent.record:
            parent = {**(parent or {}), "seed": self.parent.record["seed"]}
        return {"pipeline": self.pipeline, "sparsity": self.plan, "selection": self.selection, "parent": parent}


def inherit(stage: Any, settings: Mapping[str, Any], parent: Source | None, others: Iterable[Source] = ()) -> Lineage:
    """What `stage` inherits from its parent and from the other networks that it is built on.

    Raises:
        InputError: another pipeline or sparsity was asked for than the parent's, or another development split than that
            of any of them.
    """
    sources = [*([parent] if parent else []), *others]
    seen = [source.record.get("selection", UNKNOWN) for source in sources]
    own_selection = [stage.protocol.selection] if stage.trains or not seen else []
    selection = max([*own_selection, *seen], key=SEEN.index)
    refuse_other_split(sources, settings)
    own = [stage.objective_name] if stage.trains else []
    if parent is None:
        return Lineage(own, plan_of(stage), selection, sources=sources)
    above = parent.record.get("pipeline", [UNKNOWN])
    plan = plan_of(stage) if stage.stage == 2 else parent.record.get("sparsity")
    if parent.record:
        where, asked = parent.path.parent, stage.parent_objective
        if asked and asked.split("+") != above:
            raise InputError(f"{where}: trained with {'+'.join(above)}; --model.parent_objective asks for {asked}")
        if wrong := sparsity_differences(plan, stage.asked_sparsity):
            raise InputError(f"{where}: {describe(wrong, '--model.sparsity.')}")
    return Lineage([*above, *own], plan, selection, parent, sources)


def refuse_other_split(sources: Iterable[Source], settings: Mapping[str, Any]) -> None:
    """Raise InputError where one of the runs that a stage is built on has another development split than it."""
    here = held_out(settings)
    for source in sources:
        there = held_out(source.record["settings"]) if source.record else here
        if wrong := {name: (there[name], here[name]) for name in here if there.get(name, here[name]) != here[name]}:
            raise InputError(
                f"{source.path.parent}: {describe(wrong, '--')}; this stage would be selected on questions the other "
                "run was trained on: take its development split"
            )


def held_out(settings: Mapping[str, Any]) -> dict[str, Any]:
    """How a run's development questions were drawn from train: rule, share and seed, or a share of 0."""
    if "data.split_seed" not in settings:
        return {"data.dev_share": 0.0}
    return {name: settings.get(name, BASELINE[name]) for name in HELD_OUT}


def plan_of(stage: Any) -> dict[str, Any] | None:
    """A stage's sparsity with the share of every modality settled."""
    if stage.sparsity is None:
        return None
    plan: dict[str, Any] = vars(stage.sparsity) | stage.sparsity.rates(stage.counts)
    return plan


def sparsity_differences(plan: Mapping[str, Any] | None, asked: Mapping[str, Any] | None) -> dict[str, tuple[Any, Any]]:
    """Sparsity settings that were given and are not the plan's, with both values; shares are compared to 1e-6."""
    found = {}
    for name, value in (asked or {}).items():
        there = None if plan is None else plan.get(name)
        close = isinstance(there, float) and isinstance(value, int | float) and abs(there - value) <= 1e-6
        if value is not None and there != value and not close:
            found[name] = (there, value)
    return found


def describe(wrong: Mapping[str, tuple[Any, Any]], flag: str = "") -> str:
    """Differences as text, for an error."""
    return ", ".join(f"{flag}{name} is {there!r} there and {here!r} here" for name, (there, here) in wrong.items())


def new_run(folder: Path, stage: int, lineage: Lineage, settings: Mapping[str, Any], seed: int) -> tuple[Run, str]:
    """The run that these settings make, below the folder of its data and backbone, and its whole digest."""
    digest = digest_of(settings)
    return Run(folder / f"{run_name(stage, lineage.pipeline, lineage.plan)}-{digest[:DIGITS]}" / f"seed{seed}"), digest


def runs_in(folder: Path, stage: int, seed: int) -> list[tuple[Run, dict[str, Any]]]:
    """The runs of a stage and seed below the folder of their data and backbone, by the content of their records.

    A copy of a run counts once; records that cannot be read are skipped with a warning.
    """
    found: dict[str, tuple[Run, dict[str, Any]]] = {}
    for path in sorted(folder.glob("*/*/run.json")):
        run = Run(path.parent)
        try:
            record = run.read()
        except InputError as error:
            rank_zero_warn(str(error))
            continue
        in_seed_folder = run.folder.name == f"seed{seed}"
        if (record["stage"], record["seed"]) == (stage, seed) and (in_seed_folder or record["identity"] not in found):
            found[record["identity"]] = (run, record)
    return list(found.values())


def find_parent(stage: Any, folder: Path, seed: int) -> Source:
    """The finished run of the stage before: same data, backbone and seed, and what else was asked of it.

    Raises:
        InputError: there is none, or several.
    """
    pipelines = asked_pipelines(stage)
    before = stage.stage - 1
    fitting = [
        (run, record)
        for run, record in runs_in(folder, before, seed)
        if record["pipeline"] in pipelines and not sparsity_differences(record["sparsity"], stage.asked_sparsity)
    ]
    finished = [(run, record) for run, record in fitting if record["finished"] is not None]
    if len(finished) == 1:
        return Source.of(str(finished[0][0].folder), seed)
    objectives = pipelines[0]
    made_by = f"fit {config_of(1, objectives[0])}"
    if before == 2:
        stage2 = f"fit {config_of(2, objectives[1])}" if len(objectives) > 1 else "prune"
        made_by = f"{stage2} --model.parent_objective {objectives[0]}"
    if finished:
        raise InputError(
            f"{folder}: {len(finished)} runs fit as the parent: {listed(finished)}; name one with --model.init_from"
        )
    if fitting:
        raise InputError(
            f"{fitting[0][0].folder}: this run is not finished; finish it with `cdvqa {made_by} --ckpt_path last` first"
        )
    unknown = next((name for name in objectives if name not in OBJECTIVES), "")
    if like := nearest(unknown, OBJECTIVES):
        raise InputError(f"--model.parent_objective {'+'.join(objectives)}: no run in {folder} has {unknown}{like}")
    asked = "".join(f", {name} {value}" for name, value in (stage.asked_sparsity or {}).items())
    raise InputError(
        f"{folder}: no finished stage-{before} run of {' or '.join('+'.join(part) for part in pipelines)}{asked} with "
        f"seed {seed} to start from; make it with `cdvqa {made_by}` and the same overlays and seed"
    )


def config_of(stage: int, objective: str) -> str:
    """The options that train an objective: its shipped config, or another one and the objective's name."""
    return f"--config stage{stage}_" + (
        f"{objective}.yaml" if objective in SHIPPED else f"bce.yaml --model.objective {objective}"
    )


def asked_pipelines(stage: Any) -> list[list[str]]:
    """The pipelines that a parent may have: the one that was asked for, or the stage's own objective throughout."""
    if stage.parent_objective:
        return [stage.parent_objective.split("+")]
    own = [stage.objective_name]
    method = (stage.asked_sparsity or {}).get("method")
    if stage.stage == 2 or method == "omp":
        return [own]
    return [own * 2] if method == "mask" else [own * 2, own]


def listed(runs: Iterable[tuple[Run, Mapping[str, Any]]]) -> str:
    """Runs, each with the settings in which it is not like the others."""
    settings = {run.folder: record["settings"] for run, record in runs}
    names = differing(list(settings.values()))
    own = {path: ", ".join(f"{name} {values.get(name)!r}" for name in names) for path, values in settings.items()}
    return "; ".join(f"{path} ({differences})" for path, differences in own.items())


def find_existing(stage: Any, folder: Path, seed: int, settings: Mapping[str, Any]) -> tuple[Run, dict[str, Any]]:
    """The run that these settings made, whatever it started from.

    Where several runs fit, settings of the training alone decide between them, then whether the parent was trained
    with the stage's own objective.

    Raises:
        InputError: there is none, or there are several.
    """
    runs = runs_in(folder, stage.stage, seed)
    found = [entry for entry in runs if not run_differences(stage, entry[1], settings, TRAINING)]
    found = [entry for entry in found if not run_differences(stage, entry[1], settings)] or found
    found = [entry for entry in found if objectives_above(stage, entry[1]) in asked_pipelines(stage)] or found
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(f"{folder}: {len(found)} runs fit: {listed(found)}; name one with --config RUN/config.yaml")
    if not runs:
        raise InputError(f"{folder}: there is no run of stage {stage.stage} with seed {seed}; `cdvqa fit` makes one")
    run, record = min(runs, key=lambda entry: len(run_differences(stage, entry[1], settings, TRAINING)))
    wrong = run_differences(stage, record, settings, TRAINING)
    raise InputError(f"{folder}: no run has these settings; in the nearest, {run.folder}, {describe(wrong)}")


def run_differences(
    stage: Any, record: Mapping[str, Any], settings: Mapping[str, Any], ignored: tuple[str, ...] = ()
) -> dict[str, tuple[Any, Any]]:
    """Settings in which a run differs from those given, with both values; a parent counts where it was named."""
    there = record["settings"]
    if "data.dev_share" in settings:  # earlier runs did not record a share of 0
        there = held_out(there) | there
    wrong = differences(there, settings, ignored if "parent" in settings else (*ignored, "parent"))
    asked, above = stage.parent_objective, objectives_above(stage, record)
    if asked and asked.split("+") != above:
        wrong["model.parent_objective"] = ("+".join(above), asked)
    sparsity = sparsity_differences(record["sparsity"], stage.asked_sparsity)
    return wrong | {f"model.sparsity.{name}": values for name, values in sparsity.items()}


def objectives_above(stage: Any, record: Mapping[str, Any]) -> list[str]:
    """The pipeline of the parent of a run that `stage` made."""
    pipeline: list[str] = record["pipeline"]
    return pipeline[: len(pipeline) - stage.trains]


def sources_of(config: Mapping[str, Any], seed: int) -> list[Source]:
    """The teacher's network, and those that the objective's options name."""
    values = [(name, str(value)) for name, value in flatten(config) if name.startswith(LEARNT_FROM) and value]
    named = [(name, value) for name, value in values if run_of(Path(value)) or Path(value).suffix == ".safetensors"]
    return [Source.of(value, seed, f"--{name}") for name, value in named]
