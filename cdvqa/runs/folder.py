"""The files of a run: `logs/<data>/<backbone>/<name>-<digest>/seed<k>/`.

The name is for people, the digest is the identity's (`cdvqa.runs.identity`): two different runs share no folder.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cdvqa.errors import InputError
from cdvqa.files import read_json

DIGITS = 8  # of the identity's 64, in a folder's name
LETTERS = {"L": "language", "V": "vision", "X": "cross"}


@dataclass(unsafe_hash=True)
class Run:
    """The files of one run. A folder is a run if it has a `run.json`."""

    folder: Path

    def __post_init__(self) -> None:
        self.config = self.folder / "config.yaml"
        self.record = self.folder / "run.json"
        self.checkpoint = self.folder / "checkpoints" / "last.ckpt"  # what `--ckpt_path last` goes on from
        self.metrics = self.folder / "metrics.csv"
        self.results = self.folder / "results.json"
        # The network that the run selected, as stage 1 and as stages 2 and 3 write it.
        self.model = self.folder / "model.safetensors"
        self.subnetwork = self.folder / "subnetwork.safetensors"

    def predictions(self, split: str) -> Path:
        return self.folder / "predictions" / f"{split}.json"

    @property
    def exists(self) -> bool:
        return self.record.is_file()

    @property
    def finished(self) -> bool:
        return self.exists and read_json(self.record).get("finished") is not None

    @property
    def steps(self) -> int | None:
        """Optimiser steps of a finished run."""
        return read_json(self.record).get("steps") if self.exists else None

    def read(self) -> dict[str, Any]:
        """The content of run.json.

        Raises:
            InputError: it is broken, or of a version of cdvqa in which runs had no identity.
        """
        try:
            record: dict[str, Any] = read_json(self.record)
            if "identity" in record:
                return record
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f"{self.record}: cannot be read ({error})") from error
        network = self.subnetwork if self.subnetwork.is_file() else self.model
        raise InputError(
            f"{self.folder}: this run was made by an older cdvqa and has no identity; "
            f"its network can be used with --model.init_from {network}"
        )

    def result(self) -> Path:
        """The selected network's file.

        Raises:
            InputError: there is none, or the run was interrupted.
        """
        for path in (self.subnetwork, self.model):
            if path.is_file():
                return path
        if not self.exists:
            raise InputError(f"{self.folder}: is no run; name the folder of one, which holds its run.json")
        interrupted = "was interrupted before it selected a model; finish it with --ckpt_path last"
        raise InputError(f"{self.folder}: {interrupted}")


def run_of(path: Path) -> Run | None:
    """The run whose folder or file `path` is; None for a file of no run, or of a run without identity."""
    for folder in (path, *path.parents[:2]) if path.exists() else ():
        if Run(folder).exists:
            return Run(folder) if folder == path or "identity" in read_json(Run(folder).record) else None
    return None


def run_name(stage: int, pipeline: Sequence[str], plan: Mapping[str, Any] | None = None) -> str:
    """A run's name for people: `stage2_lpf+lmh_mask_modality_s50_L60V20X52.8`; usual settings are left out.

    `plan` is the sparsity, as run.json has it; None in stage 1, and where nobody knows it.
    """
    name = f"stage{stage}_{'+'.join(pipeline)}"
    if plan is None:
        return name
    short = {key: str(plan[key]).rpartition(".")[2] for key in ("assignment", "criterion")}
    parts = [name, plan["method"], short["assignment"], f"s{percent(plan['overall'], 2)}"]
    if plan["assignment"] in ("modality", "modality_global"):
        parts.append("".join(f"{letter}{percent(plan[key], 1)}" for letter, key in LETTERS.items()))
    if short["criterion"] != "magnitude":
        parts.append(short["criterion"])
    if (pattern := plan.get("pattern", "unstructured")) != "unstructured":
        parts.append(pattern)
    if plan["method"] == "mask" and plan["scores"] == "weight":
        parts.append("weight")
    return "_".join(parts)


def percent(share: float, digits: int = 6) -> str:
    """A share as percent without trailing zeros: 0.5 → "50", 0.975 → "97.5"."""
    return f"{100 * share:.{digits}f}".rstrip("0").rstrip(".")


def network_file(source: str, flag: str = "--model.init_from") -> Path:
    """The network that `flag` names: a file, or a run folder's selected network.

    Raises:
        InputError: there is none, or the run was interrupted.
    """
    path = Path(source)
    if path.is_dir():
        return Run(path).result()
    if not path.is_file():
        raise InputError(f"{source}: no such run folder or network file ({flag}); name a finished run's folder")
    return path


def read_results(run: Run) -> dict[str, Any]:
    """The run's results, or an empty dictionary before any test."""
    return read_json(run.results) if run.results.is_file() else {}
