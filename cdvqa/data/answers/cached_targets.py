"""Cached targets: pickled soft targets that replace missing annotations.

Files are named as in bottom-up-attention-vqa (`cache/train_target.pkl`, `cache/trainval_ans2label.pkl`) and by the
paper's authors (`train_test_` and `train_val_test_ans2label.pkl`). A soft score is a saturated count of equal human
answers, so the answers rebuilt from it give the same targets; `UNKNOWN` fills up to ten.
"""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdvqa.data.answers.vocabulary import soft_scores
from cdvqa.data.pickles import load_pickle
from cdvqa.data.questions.annotations import Annotations, Categories, HumanAnswers, check_fields, check_unique, integers
from cdvqa.errors import InputError
from cdvqa.presets import SoftScore

UNKNOWN = "[not in the cached targets]"  # a human answer that no vocabulary has
_HUMANS = 10
_SATURATED: dict[SoftScore, int] = {"third": 3, "clark": 4}  # number of equal answers at which the score reaches 1
_VOCABULARIES = ("train_test", "train_val_test", "trainval")


def find_targets(root: Path, split: str) -> dict[str, str] | None:
    """Names under the root of a split's cached `targets` and of their `answers`, or None where there are no targets.

    Args:
        root: folder of the data set.
        split: what the file is named after: `val` for cache/val_target.pkl.

    Raises:
        InputError: there are targets, but no vocabulary.
    """
    name = f"cache/{split}_target.pkl"
    if not (root / name).is_file():
        return None
    for prefix in _VOCABULARIES:
        for kind in ("ans2label", "label2ans"):
            answers = f"cache/{prefix}_{kind}.pkl"
            if (root / answers).is_file():
                return {"targets": name, "answers": answers}
    raise InputError(f"{root / name}: no vocabulary beside it; add the trainval_ans2label.pkl it was made with")


def read_answers(path: Path) -> list[str]:
    """The answers of a pickled vocabulary in the order of their labels, from ans2label (dict) or label2ans (list).

    Raises:
        InputError: the file is no such pickle, or its labels are not 0 … A − 1.
    """
    content = load_pickle(path)
    if isinstance(content, dict):
        by_label = {label: answer for answer, label in content.items()}
        if by_label.keys() != set(range(len(content))):
            raise InputError(f"{path}: its {len(content)} answers do not have the labels 0 to {len(content) - 1}")
        content = [by_label[label] for label in range(len(content))]
    if not isinstance(content, list) or not content or not all(type(answer) is str for answer in content):
        raise InputError(f"{path}: neither a dictionary from answers to labels nor a list of answers")
    return content


def read_targets(path: Path, answers: list[str], rule: SoftScore) -> Annotations:
    """Annotations under which `SoftTargets` gives the cached targets.

    Each label gets as many human answers as its score needs. The answer of the largest score becomes the
    multiple-choice answer and gives the answer type (`answer_type`). The question type is "" where the file has none.

    Args:
        path: list of {question_id, labels, scores} and perhaps question_type.
        answers: from `read_answers`.
        rule: the soft score of the run.

    Raises:
        InputError: the file is no such pickle, a label is not in the vocabulary, or a score is none of `rule`.
    """
    source, records = str(path), load_pickle(path)
    if not isinstance(records, list) or not records:
        raise InputError(f"{source}: holds no list of targets")
    fields = {"question_id": int, "labels": list, "scores": list}
    if isinstance(records[0], dict) and "question_type" in records[0]:
        fields["question_type"] = str
    for number, record in enumerate(records):
        check_fields(record, fields, number, source)
    ids = integers(records, "question_id", source)
    check_unique(ids, source)
    codes = _answer_codes(records, len(answers), rule, source)
    best = [answers[_best(record)] if record["labels"] else UNKNOWN for record in records]
    return Annotations(
        question_id=ids,
        question_type=Categories.of(record.get("question_type", "") for record in records),
        answer_type=Categories.of(answer_type(answer) for answer in best),
        multiple_choice_answer=Categories.of(best),
        answers=HumanAnswers([*answers, UNKNOWN], codes.ravel(), np.arange(len(ids) + 1) * _HUMANS),
    )


def answer_type(answer: str) -> str:
    """VQA's answer type, guessed from the answer: right for 97 % of the questions of VQA-VS's Val."""
    return "yes/no" if answer in ("yes", "no") else "number" if answer.isdecimal() else "other"


def _best(record: dict[str, Any]) -> int:
    scores = record["scores"]
    label: int = record["labels"][scores.index(max(scores))]
    return label


def _answer_codes(records: Sequence[dict[str, Any]], unknown: int, rule: SoftScore, source: str) -> NDArray[np.int32]:
    """Ten codes (N, 10): labels, each as often as its score needs, and then `unknown`, the size of the vocabulary."""

    def refuse(row: int, why: str) -> InputError:
        return InputError(f"{source}: record {row} (question {records[row]['question_id']}): {why}")

    for row, record in enumerate(records):
        if len(record["labels"]) != len(record["scores"]):
            raise refuse(row, f"{len(record['labels'])} labels but {len(record['scores'])} scores")
        if not all(isinstance(label, int) and 0 <= label < unknown for label in record["labels"]):
            raise refuse(row, f"labels {record['labels']} are not all in the vocabulary of {unknown} answers")
        if not all(isinstance(score, int | float) for score in record["scores"]):
            raise refuse(row, "a score is not a number")
    rows = np.repeat(np.arange(len(records)), [len(record["labels"]) for record in records])
    label = np.fromiter(chain.from_iterable(record["labels"] for record in records), np.int32)
    score = np.fromiter(chain.from_iterable(record["scores"] for record in records), np.float64)

    possible = soft_scores(np.arange(1, _SATURATED[rule] + 1), rule)
    distance = np.abs(score[:, None] - possible)
    copies = distance.argmin(1) + 1
    wrong = np.flatnonzero(~(distance.min(1) <= 0.005))  # some files are rounded to two digits; NaN is wrong
    if len(wrong):
        other = "clark" if rule == "third" else "third"
        remedy = f"soft score {rule!r} does not give; try --model.soft_score {other}"
        raise refuse(int(rows[wrong[0]]), f"score {score[wrong[0]]:.4g}, which {remedy}")
    total = np.bincount(rows, copies, len(records)).astype(np.int64)
    if total.max() > _HUMANS:
        raise refuse(int(total.argmax()), "its scores need more than ten human answers")
    codes = np.full((len(records), _HUMANS), unknown, np.int32)
    codes[np.arange(_HUMANS) < total[:, None]] = np.repeat(label, copies)
    return codes
