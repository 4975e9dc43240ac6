"""Where a run lives, what it is called, and how a stage finds the run it starts from.

`logs/<data>/<backbone>/<run>/seed<k>/`, with run = `stage1_<obj>`,
`stage2_<obj1>+<obj2>_<mask|omp>_<assignment>_s<percent zeros>` or `stage3_<obj1>+<obj2>+<obj3>_…`;
parts that do not apply are left out (`stage2_bce_omp_uniform_s50`). A criterion other than `magnitude` is added, such
as `_random`, and scores that start from the weights as `_weight`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cdvqa.errors import InputError
from cdvqa.files import read_json
from cdvqa.objectives import find_objective
from cdvqa.sparsity import Sparsity


@dataclass(frozen=True)
class Run:
    """The files of one run."""

    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "config.yaml"

    @property
    def record(self) -> Path:
        """Lineage: stage, parent, data and versions; its presence is what makes the folder a run."""
        return self.folder / "run.json"

    @property
    def checkpoint(self) -> Path:
        """What `--ckpt_path last` goes on from."""
        return self.folder / "checkpoints" / "last.ckpt"

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics.csv"

    @property
    def results(self) -> Path:
        return self.folder / "results.json"

    @property
    def model(self) -> Path:
        """The network that the run selected, as stage 1 writes it."""
        return self.folder / "model.safetensors"

    @property
    def subnetwork(self) -> Path:
        """The network that the run selected, as stages 2 and 3 write it."""
        return self.folder / "subnetwork.safetensors"

    def predictions(self, split: str) -> Path:
        return self.folder / "predictions" / f"{split}.json"

    @property
    def exists(self) -> bool:
        return self.record.is_file()

    @property
    def finished(self) -> bool:
        return self.exists and read_json(self.record).get("finished") is not None

    def result(self) -> Path:
        """The selected network's file.

        Raises:
            InputError: there is none, or the run was interrupted.
        """
        for path in (self.subnetwork, self.model):
            if path.is_file():
                return path
        state = (
            "was interrupted before it selected a model; finish it with --ckpt_path last"
            if self.exists
            else "is no run"
        )
        raise InputError(f"{self.folder}: {state}")


def run_name(stage: int, pipeline: list[str], sparsity: Sparsity | None = None) -> str:
    """Name of a run from its stage, its objectives in order, and (stages 2 and 3) its sparsity."""
    name = f"stage{stage}_{'+'.join(pipeline)}"
    if sparsity is None:
        return name
    assignment, criterion = (path.rpartition(".")[2] for path in (sparsity.assignment, sparsity.criterion))
    start = "" if criterion == "magnitude" else f"_{criterion}"
    start += "_weight" if sparsity.method == "mask" and sparsity.scores == "weight" else ""
    return f"{name}_{sparsity.method}_{assignment}_s{percent(sparsity.overall)}{start}"


def percent(share: float) -> str:
    """A share as percent without trailing zeros: 0.5 → "50", 0.975 → "97.5"."""
    return f"{100 * share:.6f}".rstrip("0").rstrip(".")


def pipeline_of(stage: int, objective: str, parent_objective: str | None, sparsity: Sparsity | None) -> list[str]:
    """The objectives of a run from stage 1 on; a parent that is not named used the stage's own objective.

    Raises:
        InputError: an unknown objective, or a parent of the wrong length for this stage.
    """
    find_objective(objective)
    if stage == 1:
        return [objective]
    one_shot = sparsity is not None and sparsity.method == "omp"
    length = 2 if stage == 3 and not one_shot else 1
    parents = parent_objective.split("+") if parent_objective else [objective] * length
    for name in parents:
        find_objective(name, "--model.parent_objective")
    if len(parents) != length:
        example = "+".join(["bce", "lmh"][:length])
        raise InputError(
            f"--model.parent_objective: stage {stage} starts from {length} objective(s), such as {example}"
        )
    # One-shot pruning trains nothing, so stage 2 adds no objective of its own.
    return parents if stage == 2 and one_shot else [*parents, objective]


def parent_run_name(stage: int, pipeline: list[str], sparsity: Sparsity | None) -> str:
    """Name of the run that stage 2 or 3 starts from."""
    return run_name(1, pipeline[:1]) if stage == 2 else run_name(2, pipeline[:-1], sparsity)


def parent_run(folder: Path, stage: int, pipeline: list[str], sparsity: Sparsity | None) -> Run:
    """The run that stage 2 or 3 in `folder` starts from: same data, backbone, seed and pipeline.

    Raises:
        InputError: no such run, or one that is not finished; the message names the command that makes it.
    """
    if stage == 2:
        command = f"cdvqa fit --config stage1_{pipeline[0]}.yaml"
    else:
        one_shot = sparsity is not None and sparsity.method == "omp"
        made_by = "prune" if one_shot else f"fit --config stage2_{pipeline[1]}.yaml"
        command = f"cdvqa {made_by} --model.parent_objective {pipeline[0]}"
    run = Run(folder.parent.parent / parent_run_name(stage, pipeline, sparsity) / folder.name)
    if not run.exists:
        raise InputError(
            f"{run.folder}: no such run to start from; make it with `{command}` and the same overlays and seed"
        )
    if not run.finished:
        raise InputError(f"{run.folder}: this run is not finished; finish it with `{command} --ckpt_path last` first")
    return run


def network_file(source: str, flag: str = "--model.init_from") -> Path:
    """The network that `flag` names: a file, or a run folder's selected network."""
    path = Path(source)
    if path.is_dir():
        return Run(path).result()
    if not path.is_file():
        raise InputError(f"{source}: no such run folder or network file ({flag})")
    return path


def read_results(run: Run) -> dict[str, Any]:
    """The run's results, or an empty dictionary before any test."""
    return read_json(run.results) if run.results.is_file() else {}
