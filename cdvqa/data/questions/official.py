"""Readers of the official question and annotation files."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cdvqa.data.questions.annotations import Annotations, JsonRecord, check_fields, check_text, check_unique, integers
from cdvqa.data.questions.archives import Source, unpacked
from cdvqa.errors import InputError

if TYPE_CHECKING:
    from cdvqa.data.visual.source import VisualSource

_FIELDS = {"question_id": int, "image_id": int, "question": str}


@dataclass(frozen=True)
class PlainQuestions:
    """N questions without answers, in the order of their file: ids (N,) and texts."""

    question_id: NDArray[np.int64]
    image_id: NDArray[np.int64]
    text: list[str]

    @classmethod
    def of(cls, records: Sequence[JsonRecord], source: str = "questions") -> PlainQuestions:
        """Columns of records {question_id, image_id, question}.

        Args:
            records: in any order.
            source: what an error names, usually the file.

        Raises:
            InputError: a field is missing or of the wrong kind, or an id is duplicate.
        """
        for number, record in enumerate(records):
            check_fields(record, _FIELDS, number, source)
        columns = cls(
            question_id=integers(records, "question_id", source),
            image_id=integers(records, "image_id", source),
            text=[record["question"] for record in records],
        )
        check_text(columns.text, "question", source)
        check_unique(columns.question_id, source)
        return columns


@dataclass(frozen=True)
class Questions:
    """N questions with their annotations, row by row, in the order of the annotation file: image ids (N,) and texts."""

    image_id: NDArray[np.int64]
    text: list[str]
    annotations: Annotations

    @property
    def question_id(self) -> NDArray[np.int64]:
        """(N,)."""
        return self.annotations.question_id

    def __len__(self) -> int:
        return len(self.text)

    def select(self, rows: NDArray[np.intp]) -> Questions:
        """The chosen rows, in the order given."""
        return Questions(self.image_id[rows], [self.text[row] for row in rows], self.annotations.select(rows))


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Pause the garbage collector: its search for cycles among millions of new records takes a third of the reading."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def read_questions(question_file: str | Source, annotation_file: str | Source) -> Questions:
    """Read a split and join its two files by question id; errors as in the functions below."""
    plain, annotations = read_plain_questions(question_file), read_annotations(annotation_file)
    return join_questions(plain, annotations, str(question_file), str(annotation_file))


@no_garbage_collection()
def read_plain_questions(source: str | Source) -> PlainQuestions:
    """Read a question file: a list of {question_id, image_id, question}, or {"questions": list}.

    Raises:
        InputError: as `read_records` and `PlainQuestions.of`.
    """
    return PlainQuestions.of(read_records(source, "questions"), str(source))


@no_garbage_collection()
def read_annotations(source: str | Source) -> Annotations:
    """Read an annotation file: a list of records as `Annotations.of` takes them, or {"annotations": list}.

    Raises:
        InputError: as `read_records` and `Annotations.of`.
    """
    return Annotations.of(read_records(source, "annotations"), str(source))


def join_questions(plain: PlainQuestions, annotations: Annotations, source: str, annotation_source: str) -> Questions:
    """Join questions to their annotations by id, in the order of the annotations.

    Raises:
        InputError: an annotation has not ten answers, or a question id is only on one side.
    """
    _check_ten(annotations, annotation_source)
    _check_covered(plain.question_id, annotations.question_id, source, annotation_source)
    _check_covered(annotations.question_id, plain.question_id, annotation_source, source)
    by_id = np.argsort(plain.question_id)
    rows = by_id[np.searchsorted(plain.question_id, annotations.question_id, sorter=by_id)]
    return Questions(plain.image_id[rows], [plain.text[row] for row in rows], annotations)


def read_own_questions(file: Path, visual: VisualSource) -> PlainQuestions:
    """Read questions of your own, which a network is to answer, and refuse those that cannot be answered.

    Raises:
        InputError: as `read_plain_questions`; a question is empty, or its image is missing.
    """
    plain = read_plain_questions(file)
    for number, text in enumerate(plain.text):
        if not text.strip():
            where = f"{file}: record {number} (question {plain.question_id[number]})"
            raise InputError(f"{where}: 'question' is empty; write the question or remove the record")
    try:
        visual.check_images(plain.image_id, plain.question_id)
    except InputError as error:
        raise InputError(f"{file}: {error}; {visual.option} must hold every image of the questions") from None
    return plain


def read_question_ids(question_file: str | Source) -> set[int]:
    """Only the question ids of a question file; its records need no other field."""
    records = read_records(question_file, "questions")
    for number, record in enumerate(records):
        check_fields(record, {"question_id": int}, number, str(question_file))
    return {record["question_id"] for record in records}


def read_records(source: str | Source, key: str) -> list[Any]:
    """The records of a JSON file, not yet checked: a list, or the list `key` of an object.

    Raises:
        InputError: as `read_content`; or the file has no records.
    """
    records = read_content(source, object_hook=_AnswersOnce())
    if isinstance(records, dict):
        records = records.get(key)
    if not isinstance(records, list):
        raise InputError(f"{source}: holds neither a list of {key} nor an object with a list {key!r}")
    if not records:
        raise InputError(f"{source}: holds no {key}")
    return records


@no_garbage_collection()
def read_content(source: str | Source, **hooks: Any) -> Any:
    """What a JSON file holds.

    Args:
        source: the file.
        hooks: what `json.loads` makes of each object, innermost first: `object_hook` or `object_pairs_hook`.

    Raises:
        InputError: the file is missing, damaged, not in UTF-8 (a byte order mark is fine), or no JSON.
    """
    content = b"".join(unpacked(Path(source) if isinstance(source, str) else source))
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
        return json.loads(text, **hooks)
    except (ValueError, RecursionError) as error:  # a ValueError of its own for an integer of thousands of digits
        raise InputError(f"{source}: not valid JSON ({error}); fetch the file again") from None


class _AnswersOnce:
    """Keeps one object for all human answers of the same text; without it annotations take three times the memory."""

    def __init__(self) -> None:
        self._known: dict[str, dict[str, str]] = {}

    def __call__(self, record: dict[str, Any]) -> JsonRecord:
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
