"""Readers of the official question and annotation files."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdvqa.data.questions.annotations import Annotations, Record, check_fields, check_text, check_unique, integers
from cdvqa.data.questions.archives import Source, open_source
from cdvqa.errors import InputError

_FIELDS = {"question_id": int, "image_id": int, "question": str}


@dataclass(frozen=True)
class Asked:
    """N questions as a question file has them."""

    question_id: NDArray[np.int64]
    image_id: NDArray[np.int64]
    text: list[str]


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
def read_questions(question_file: str | Source, annotation_file: str | Source) -> Questions:
    """Read a split and join its two files by question id.

    Args:
        question_file: a list of {question_id, image_id, question}, or {"questions": list}.
        annotation_file: a list of {question_id, question_type, answer_type, multiple_choice_answer,
            answers: [{answer}, …]}, ten answers each, or {"annotations": list}.

    Raises:
        InputError: a file is missing or damaged, no JSON in UTF-8 or no list of records; a record lacks a field, has
            one of the wrong kind or not ten answers; a question id stands twice in a file or only in one of them.
    """
    annotations = Annotations.of(read_records(annotation_file, "annotations"), str(annotation_file))
    _check_ten(annotations, str(annotation_file))
    return join_questions(question_file, annotations, str(annotation_file))


def join_questions(question_file: str | Source, annotations: Annotations, annotation_source: str) -> Questions:
    """Read a question file and put its questions beside their annotations; errors as in `read_questions`."""
    asked = read_asked(question_file)
    _check_covered(asked.question_id, annotations.question_id, str(question_file), annotation_source)
    _check_covered(annotations.question_id, asked.question_id, annotation_source, str(question_file))
    by_id = np.argsort(asked.question_id)
    rows = by_id[np.searchsorted(asked.question_id, annotations.question_id, sorter=by_id)]
    return Questions(asked.image_id[rows], [asked.text[row] for row in rows], annotations)


def read_asked(question_file: str | Source) -> Asked:
    """Read a question file alone, in its order; errors as in `read_questions`."""
    records = read_records(question_file, "questions")
    source = str(question_file)
    for number, record in enumerate(records):
        check_fields(record, _FIELDS, number, source)
    asked = Asked(
        question_id=integers(records, "question_id", source),
        image_id=integers(records, "image_id", source),
        text=[record["question"] for record in records],
    )
    check_text(asked.text, "question", source)
    check_unique(asked.question_id, source)
    return asked


def read_question_ids(question_file: str | Source) -> set[int]:
    """Only the question ids of a question file."""
    records = read_records(question_file, "questions")
    for number, record in enumerate(records):
        check_fields(record, {"question_id": int}, number, str(question_file))
    return {record["question_id"] for record in records}


@_no_garbage_collection()
def read_records(source: str | Source, key: str) -> list[Any]:
    """The records of a JSON file, not yet looked at: a list, or the list `key` of an object.

    Raises:
        InputError: the file is missing, damaged, not in UTF-8 (a byte order mark is fine), no JSON, or has no records.
    """
    with open_source(Path(source) if isinstance(source, str) else source) as stream:
        content = stream.read()
    encoding = json.detect_encoding(content)  # by a byte order mark or zeros
    if not encoding.startswith("utf-8"):
        raise InputError(f"{source}: the text is in {encoding.upper()}; save it as UTF-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        where = f"byte {content[error.start]:#x} at {error.start}"
        raise InputError(f"{source}: the text is not in UTF-8 ({where}), perhaps Latin-1; save it as UTF-8") from None
    del content
    try:
        records = json.loads(text, object_hook=_AnswersOnce())
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{source}: not valid JSON ({error}); fetch the file again") from None
    if isinstance(records, dict):
        records = records.get(key)
    if not isinstance(records, list):
        raise InputError(f"{source}: holds neither a list of {key} nor an object with a list {key!r}")
    if not records:
        raise InputError(f"{source}: holds no {key}")
    return records


class _AnswersOnce:
    """One object for all human answers of the same text: of ten answers a question, few are new.

    Without it the annotations of VQA-CP v2's size take three times as much memory.
    """

    def __init__(self) -> None:
        self._known: dict[str, dict[str, str]] = {}

    def __call__(self, record: dict[str, Any]) -> Record:
        answer = record.get("answer")
        if type(answer) is not str or "question_id" in record or "answers" in record:
            return record
        known = self._known.get(answer)
        if known is None:
            known = self._known[answer] = {"answer": answer}
        return known


def _check_ten(annotations: Annotations, source: str) -> None:
    numbers = np.diff(annotations.answers.offsets)
    wrong = np.flatnonzero(numbers != 10)
    if len(wrong):
        row = wrong[0]
        raise InputError(
            f"{source}: record {row} (question {annotations.question_id[row]}) has {numbers[row]} answers, and VQA "
            f"accuracy is defined over ten; repeat a single answer ten times ({len(wrong)} such questions)"
        )


def _check_covered(ids: NDArray[np.int64], by: NDArray[np.int64], source: str, other: str) -> None:
    missing = np.setdiff1d(ids, by, assume_unique=True)
    if len(missing):
        raise InputError(f"{source}: question {missing[0]} is not in {other} ({len(missing)} such questions)")
