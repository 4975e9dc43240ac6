"""The development split that is held out of a train split which has none of its own."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cdvqa.data.questions.annotations import Annotations

DevSplit = Literal["ood", "iid"]


def development_split(
    annotations: Annotations, kind: DevSplit = "ood", seed: int = 0, share: float = 0.05
) -> NDArray[np.bool_]:
    """Choose the development questions: `share` of the train split, of each question type in proportion.

    Args:
        annotations: the whole train split, N questions in any order.
        kind: `ood` draws within each question type, without replacement, with weight 1 / frequency of the question's
            `multiple_choice_answer` in the type, so that the answers of the type come out nearly uniform; `iid` draws
            uniformly.
        seed: fixes the draw. The order in which the questions stand makes no difference.
        share: part of the questions that is held out (at least one question).

    Returns:
        (N,) True where a question belongs to the development split.
    """
    types, answers = annotations.question_type, annotations.multiple_choice_answer
    pair = types.codes.astype(np.int64) * len(answers.names) + answers.codes
    _, inverse, frequency = np.unique(pair, return_inverse=True, return_counts=True)
    weight = 1.0 / frequency[inverse] if kind == "ood" else np.ones(len(annotations))

    # One exponential variable per question, in the order of ids: the smallest arrival times E / w are a draw without
    # replacement with weights w (Efraimidis and Spirakis, 2006).
    by_id = np.argsort(annotations.question_id)
    arrival = np.empty(len(annotations))
    arrival[by_id] = np.random.default_rng(seed).standard_exponential(len(annotations))
    arrival /= weight

    chosen = np.zeros(len(annotations), bool)
    for code, number in enumerate(_apportion(annotations, share)):
        members = np.flatnonzero(types.codes == code)
        chosen[members[np.argsort(arrival[members])[:number]]] = True
    return chosen


def _apportion(annotations: Annotations, share: float) -> NDArray[np.int64]:
    """Whole numbers of questions per type whose sum is `share` of all, by the largest remainders."""
    types = annotations.question_type
    quota = share * np.bincount(types.codes, minlength=len(types.names))
    number = np.floor(quota).astype(np.int64)
    left = max(int(np.floor(quota.sum() + 0.5)), 1) - number.sum()
    by_name = sorted(range(len(types.names)), key=lambda code: (number[code] - quota[code], types.names[code]))
    number[by_name[:left]] += 1
    return number
