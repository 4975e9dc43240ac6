"""Annotations by column: numpy arrays and shared strings instead of a dictionary per question and answer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cdvqa.errors import InputError

JsonRecord = Mapping[str, Any]


def _encode(values: Iterable[str]) -> tuple[list[str], NDArray[np.int32]]:
    index: defaultdict[str, int] = defaultdict()
    index.default_factory = index.__len__
    codes = np.fromiter((index[value] for value in values), np.int32)
    return list(index), codes


@dataclass(frozen=True)
class Categories:
    """A column of repeated strings: `names` in order of first appearance and `codes` (N,) into them."""

    names: list[str]
    codes: NDArray[np.int32]

    @classmethod
    def of(cls, values: Iterable[str]) -> Categories:
        """The column of these N strings."""
        return cls(*_encode(values))

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, row: int) -> str:
        name: str = self.names[self.codes[row]]
        return name

    def select(self, rows: NDArray[np.intp]) -> Categories:
        """The chosen rows; names that no row uses are dropped and the rest ordered by first appearance."""
        codes, first, inverse = np.unique(self.codes[rows], return_index=True, return_inverse=True)
        by_appearance = np.argsort(first)
        rank = np.empty(len(codes), np.int32)
        rank[by_appearance] = np.arange(len(codes), dtype=np.int32)
        return Categories([self.names[code] for code in codes[by_appearance]], rank[inverse])

    def codes_in(self, names: Sequence[str]) -> NDArray[np.int64]:
        """Codes (N,) of this column in another list of names; −1 where it lacks the name."""
        index = {name: code for code, name in enumerate(names)}
        return np.array([index.get(name, -1) for name in self.names], np.int64)[self.codes]


@dataclass(frozen=True)
class HumanAnswers:
    """The raw human answers of N questions: question i has `codes[offsets[i]:offsets[i + 1]]` into `names`."""

    names: list[str]
    codes: NDArray[np.int32]
    offsets: NDArray[np.int64]

    @classmethod
    def of(cls, answers: Sequence[Sequence[str]]) -> HumanAnswers:
        """The answers of N questions, in the order given."""
        names, codes = _encode(answer for row in answers for answer in row)
        return cls(names, codes, ragged_offsets(np.array([len(row) for row in answers], np.int64)))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> list[str]:
        return [self.names[code] for code in self.codes[self.offsets[row] : self.offsets[row + 1]]]

    def select(self, rows: NDArray[np.intp]) -> HumanAnswers:
        """The chosen rows, in the order given; all names are kept."""
        lengths = np.diff(self.offsets)[rows]
        entries = ragged_positions(self.offsets[:-1][rows], lengths)
        return HumanAnswers(self.names, self.codes[entries], ragged_offsets(lengths))

    def distinct(self, codes: NDArray[np.integer], names: int) -> Distinct:
        """The distinct answers of each question under other codes, in order of first appearance.

        Args:
            codes: for each entry of `self.codes`, a code from 0 to `names` − 1, or −1 for an answer to leave out.
            names: how many codes there are.
        """
        question = np.repeat(np.arange(len(self)), np.diff(self.offsets))
        known = codes >= 0
        names = max(names, 1)  # an empty vocabulary has no pairs to divide
        pair = question[known] * names + codes[known]
        pairs, first, count = np.unique(pair, return_index=True, return_counts=True)
        by_appearance = np.argsort(first)  # `pair` is in question order, so this keeps questions together
        question, code = np.divmod(pairs[by_appearance], names)
        offsets = np.searchsorted(question, np.arange(len(self) + 1)).astype(np.int64)
        return Distinct(question, code, count[by_appearance], offsets)


class Distinct(NamedTuple):
    """The M distinct answers of N questions, question by question.

    Attributes:
        question, code: (M,) the row of the question, and the answer.
        times: (M,) how many humans gave it.
        offsets: (N + 1,) question i has the entries offsets[i] … offsets[i + 1].
    """

    question: NDArray[np.int64]
    code: NDArray[np.int64]
    times: NDArray[np.int64]
    offsets: NDArray[np.int64]


def ragged_offsets(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where the rows of these lengths (N,) begin and end, one after the other: (N + 1,), from 0."""
    return np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)


def ragged_positions(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions starts[i] … starts[i] + lengths[i] − 1 of all rows, one after the other."""
    ends = np.cumsum(lengths)
    positions: NDArray[np.int64] = np.arange(lengths.sum()) + np.repeat(starts - (ends - lengths), lengths)
    return positions


@dataclass(frozen=True)
class Annotations:
    """N annotated questions, in the order of their file.

    Attributes:
        question_id: (N,).
        question_type, answer_type, multiple_choice_answer: a string of each question, as written in the file.
        answers: the human answers, ten in official files.
    """

    question_id: NDArray[np.int64]
    question_type: Categories
    answer_type: Categories
    multiple_choice_answer: Categories
    answers: HumanAnswers

    @classmethod
    def of(cls, annotations: Annotations | Sequence[JsonRecord], source: str = "annotations") -> Annotations:
        """Columns of official annotation records (columns pass through).

        Args:
            annotations: records {question_id, question_type, answer_type, multiple_choice_answer, answers: [{answer}]}.
            source: what an error names, usually the file.

        Raises:
            InputError: a field is missing or of the wrong kind, a question has no answers, or an id is duplicate.
        """
        if isinstance(annotations, Annotations):
            return annotations
        for number, record in enumerate(annotations):
            _check(record, number, source)
        columns = cls(
            question_id=integers(annotations, "question_id", source),
            question_type=Categories.of(record["question_type"] for record in annotations),
            answer_type=Categories.of(record["answer_type"] for record in annotations),
            multiple_choice_answer=Categories.of(record["multiple_choice_answer"] for record in annotations),
            answers=HumanAnswers.of([[answer["answer"] for answer in record["answers"]] for record in annotations]),
        )
        for field in ("question_type", "answer_type", "multiple_choice_answer", "answers"):
            check_text(getattr(columns, field).names, field, source)
        check_unique(columns.question_id, source)
        return columns

    def __len__(self) -> int:
        return len(self.question_id)

    def select(self, rows: NDArray[np.intp]) -> Annotations:
        """The chosen rows, in the order given."""
        return Annotations(
            question_id=self.question_id[rows],
            question_type=self.question_type.select(rows),
            answer_type=self.answer_type.select(rows),
            multiple_choice_answer=self.multiple_choice_answer.select(rows),
            answers=self.answers.select(rows),
        )


_FIELDS = {"question_id": int, "question_type": str, "answer_type": str, "multiple_choice_answer": str, "answers": list}


def check_fields(record: JsonRecord, fields: Mapping[str, type], number: int, source: str) -> None:
    """Raise InputError unless `record` is a dictionary whose `fields` have exactly these types."""
    if not isinstance(record, Mapping):
        raise InputError(f"{source}: record {number} is not a JSON object")
    for field, kind in fields.items():
        if type(record.get(field)) is not kind:
            question = f" (question {record['question_id']})" if "question_id" in record else ""
            where = f"{source}: record {number}{question}"
            wanted = {int: "an integer", str: "a string", list: "a list", dict: "an object"}[kind]
            raise InputError(f"{where}: {field!r} must be {wanted}" if field in record else f"{where} has no {field!r}")


def integers(records: Sequence[JsonRecord], field: str, source: str) -> NDArray[np.int64]:
    """A column (N,) of checked integers."""
    try:
        return np.array([record[field] for record in records], np.int64)
    except OverflowError:
        raise InputError(f"{source}: a {field!r} does not fit into 64 bits") from None


def check_text(strings: Sequence[str], field: str, source: str) -> None:
    """Raise InputError if a string has half a surrogate pair, which JSON can write as an escape and UTF-8 cannot."""
    try:
        for string in strings:
            string.encode()
    except UnicodeEncodeError:
        why = "has half a surrogate pair; write the character whole"
        raise InputError(f"{source}: {field!r} {string!r} {why}") from None


def check_unique(question_id: NDArray[np.int64], source: str) -> None:
    """Raise InputError naming the first duplicate question id."""
    ids = np.sort(question_id)
    twice = ids[1:][ids[1:] == ids[:-1]]
    if len(twice):
        raise InputError(f"{source}: duplicate question {twice[0]}; remove one of the two records")


def _check(record: JsonRecord, number: int, source: str) -> None:
    check_fields(record, _FIELDS, number, source)
    if not record["answers"]:
        raise InputError(f"{source}: record {number} (question {record['question_id']}) has an empty list of 'answers'")
    for answer in record["answers"]:
        if type(answer) is not dict or type(answer.get("answer")) is not str:
            where = f"{source}: record {number} (question {record['question_id']})"
            raise InputError(f"{where}: every one of 'answers' must be an object with a string 'answer'")
