"""Finished runs as lines of JSON, which can be committed: a study can be continued without its run folders."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from fcntl import LOCK_EX, flock
from pathlib import Path
from typing import Any

import orjson

from cdvqa.errors import InputError
from cdvqa.files import naming_full_disk
from cdvqa.runs.folder import DAMAGED, Run, read_results
from cdvqa.runs.loggers import SELECTED_ACCURACY
from cdvqa.studies.sweep.scores import scores_of

FIELDS = ("stage", "seed", "identity", "settings", "pipeline", "sparsity", "selection", "parent", "preset",
          "departures", "started", "finished", "steps", "selected", "parameters")  # fmt: skip

Lines = dict[tuple[str, int], dict[str, Any]]
"""Records by identity and seed."""


def line_of(run: Run) -> dict[str, Any]:
    """The record of a run in a study: its folder's names, fields of run.json, results, and the scores of its questions.

    `dev` is the accuracy on the development split in percent: None where the model was selected on test, or not
    validated. `results` is empty before a test; `scores` is what `scores_of` returns.

    Raises:
        InputError: run.json, metrics.csv or results.json is broken, or of an older cdvqa.
    """
    record, results = run.read(), read_results(run)
    data, backbone, name, _ = run.folder.parts[-4:]
    return {
        "data": data,
        "backbone": backbone,
        "run": name,
        **{key: record.get(key) for key in FIELDS},
        "dev": development_accuracy(run) if record["selection"] != "test" else None,
        "results": results,
        "scores": scores_of(run, results),
    }


def development_accuracy(run: Run) -> float | None:
    """The accuracy of the selected network on the development split, in percent; None if nothing was validated."""
    try:
        rows = run.metrics.read_text(encoding="utf-8").splitlines() if run.metrics.is_file() else []
        values = [float(row.rpartition(",")[2]) for row in rows if f",{SELECTED_ACCURACY}," in row]
    except ValueError as error:
        raise InputError(f"{run.metrics}: cannot be read ({error}); {DAMAGED}") from error
    return values[-1] if values else None


def read_lines(path: Path) -> Lines:
    """The lines of a file by identity and seed; a last line that was not written to its end is left out.

    Raises:
        InputError: a line is broken.
    """
    lines: Lines = {}
    content = path.read_bytes() if path.is_file() else b""
    for number, text in enumerate(content[: content.rfind(b"\n") + 1].splitlines(), 1):
        try:
            line = orjson.loads(text)
            lines[line["identity"], line["seed"]] = line
        except (ValueError, LookupError, TypeError) as error:
            raise InputError(f"{path}, line {number}: no record of a run ({error})") from error
    return lines


def append_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Add lines at the end of a file, in place of a last one that was not written to its end.

    Processes that do so at once wait for each other.

    Raises:
        Stopped: the disk is full.
    """
    text = b"".join(orjson.dumps(line, option=orjson.OPT_SORT_KEYS) + b"\n" for line in lines)
    with naming_full_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            with suppress(OSError):  # a file system without locks
                flock(file, LOCK_EX)  # until the file is closed
            content = path.read_bytes()
            file.truncate(content.rfind(b"\n") + 1)
            file.write(text)
