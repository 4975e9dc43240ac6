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
RECORD = {"stage": int, "seed": int, "identity": str, "settings": dict, "pipeline": list, "sparsity": dict | None,
          "selection": str, "started": str, "finished": str | None}  # fmt: skip
RESULTS = {"splits": dict}
DAMAGED = "restore the file, or move the run's folder away to make the run again"


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
        return self.exists and self.read()["finished"] is not None

    @property
    def steps(self) -> int | None:
        """Optimiser steps of a finished run."""
        return read_object(self.record).get("steps") if self.exists else None

    def read(self) -> dict[str, Any]:
        """The content of run.json.

        Raises:
            InputError: it is broken, or of a version of cdvqa in which runs had no identity.
        """
        record = read_object(self.record)
        if "identity" in record:
            check_values(self.record, record, RECORD)
            return record
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
            return Run(folder) if folder == path or "identity" in read_object(Run(folder).record) else None
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
    """The run's results, or an empty dictionary before any test.

    Raises:
        InputError: results.json is broken.
    """
    if not run.results.is_file():
        return {}
    results = read_object(run.results)
    check_values(run.results, results, RESULTS)
    for name, split in results["splits"].items():
        check_values(run.results, {name: split}, {name: dict})
        check_values(run.results, {"all": 0, **split}, {"all": int | float})
    return results


def read_object(path: Path) -> dict[str, Any]:
    """A JSON file of a run; InputError if it is broken."""
    try:
        content: dict[str, Any] = read_json(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error}); {DAMAGED}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a mapping, not {content!r:.60}; {DAMAGED}")
    return content


def check_values(path: Path, content: Mapping[str, Any], kinds: Mapping[str, Any]) -> None:
    """Raise InputError if the content of a run's file lacks one of these keys, or has a value of another type there."""
    for name, kind in kinds.items():
        if name not in content:
            raise InputError(f"{path}: has no {name}; {DAMAGED}")
        if not isinstance(content[name], kind):
            raise InputError(f"{path}: {name}: unexpected {content[name]!r:.60}; {DAMAGED}")
