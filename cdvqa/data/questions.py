"""Readers of the official question and annotation files."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from cdvqa.data.annotations import Annotations, check_fields, check_unique
from cdvqa.errors import InputError

_FIELDS = {"question_id": int, "image_id": int, "question": str}


@dataclass(frozen=True)
class Questions:
    """N questions with their annotations, row by row, in the order of the annotation file."""

    image_id: NDArray[np.int64]
    text: list[str]
    annotations: Annotations

    @property
    def question_id(self) -> NDArray[np.int64]:
        return self.annotations.question_id

    def __len__(self) -> int:
        return len(self.text)

    def select(self, rows: NDArray[np.intp]) -> Questions:
        """The chosen rows, in the order given."""
        return Questions(self.image_id[rows], [self.text[row] for row in rows], self.annotations.select(rows))


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Looking for cycles among millions of new dictionaries, which have none, takes a third of the reading time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@_no_garbage_collection()
def read_questions(question_file: str | Path, annotation_file: str | Path) -> Questions:
    """Read a split and join its two files by question id.

    Args:
        question_file: a list of {question_id, image_id, question}, or {"questions": list}.
        annotation_file: a list of {question_id, question_type, answer_type, multiple_choice_answer,
            answers: [{answer}, …]}, or {"annotations": list}.

    Raises:
        InputError: a file is missing, no JSON or no list of records; a record lacks a field or has one of the wrong
            kind; a question id stands twice in a file or only in one of them.
    """
    annotations = Annotations.of(_read_records(annotation_file, "annotations"), str(annotation_file))
    records = _read_records(question_file, "questions")
    for number, record in enumerate(records):
        check_fields(record, _FIELDS, number, str(question_file))
    ids = np.array([record["question_id"] for record in records], np.int64)
    check_unique(ids, str(question_file))
    _check_covered(ids, annotations.question_id, question_file, annotation_file)
    _check_covered(annotations.question_id, ids, annotation_file, question_file)
    by_id = np.argsort(ids)
    rows = by_id[np.searchsorted(ids, annotations.question_id, sorter=by_id)]
    return Questions(
        image_id=np.array([records[row]["image_id"] for row in rows], np.int64),
        text=[records[row]["question"] for row in rows],
        annotations=annotations,
    )


def read_question_ids(question_file: str | Path) -> set[int]:
    """Only the question ids of a question file."""
    records = _read_records(question_file, "questions")
    for number, record in enumerate(records):
        check_fields(record, {"question_id": int}, number, str(question_file))
    return {record["question_id"] for record in records}


def _read_records(path: str | Path, key: str) -> list[Any]:
    try:
        content = orjson.loads(Path(path).read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; --data.root must hold the official files under their names") from None
    except orjson.JSONDecodeError as error:
        raise InputError(f"{path}: not valid JSON ({error}); fetch the file again") from None
    if isinstance(content, dict):
        content = content.get(key)
    if not isinstance(content, list):
        raise InputError(f"{path}: holds neither a list of {key} nor an object with a list {key!r}")
    if not content:
        raise InputError(f"{path}: holds no {key}")
    return content


def _check_covered(ids: NDArray[np.int64], by: NDArray[np.int64], file: str | Path, other: str | Path) -> None:
    missing = np.setdiff1d(ids, by, assume_unique=True)
    if len(missing):
        raise InputError(f"{file}: question {missing[0]} is not in {other} ({len(missing)} such questions)")
