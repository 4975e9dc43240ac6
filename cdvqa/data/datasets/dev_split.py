"""The development split that is held out of a train split which has none of its own."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cdvqa.data.questions.annotations import Annotations
from cdvqa.errors import InputError

DevSplit = Literal["ood", "iid"]
_MOST = 4  # `ood` takes at most one in so many questions of any question type and answer


def development_split(
    annotations: Annotations, kind: DevSplit = "ood", seed: int = 0, share: float = 0.05
) -> NDArray[np.bool_]:
    """Choose the development questions: `share` of the train split, of each question type in proportion.

    Args:
        annotations: the whole train split, N questions in any order.
        kind: `ood` draws within each question type, without replacement, with weight 1 / frequency of the question's
            `multiple_choice_answer` in the type, so that the answers of the type come out nearly uniform; but at most
            a quarter of the questions of any (type, answer), and fewer than `share` of a type where that leaves too
            few. `iid` draws uniformly.
        seed: fixes the draw. The order of the questions makes no difference.
        share: part of the questions that is held out; at least one question.

    Returns:
        (N,) True where a question belongs to the development split.

    Raises:
        InputError: the split, or what remains of train, would be empty.
    """
    types, answers = annotations.question_type.codes, annotations.multiple_choice_answer
    pair = types.astype(np.int64) * len(answers.names) + answers.codes
    _, pair, frequency = np.unique(pair, return_inverse=True, return_counts=True)
    ood = kind == "ood"

    # One exponential variable per question, in the order of ids: the smallest arrival times E / w are a draw without
    # replacement with weights w (Efraimidis and Spirakis, 2006). Who comes after the cap of its answer is passed over.
    arrival = np.empty(len(annotations))
    draw = np.random.default_rng(seed).standard_exponential(len(annotations))
    arrival[np.argsort(annotations.question_id)] = draw
    if ood:
        arrival *= frequency[pair]
        arrival[_rank(arrival, pair) >= frequency[pair] // _MOST] = np.inf
    chosen = (_rank(arrival, types) < _apportion(annotations, share)[types]) & np.isfinite(arrival)
    if not chosen.any() or chosen.all():
        raise InputError(
            f"--data.dev_share {share}: {len(annotations)} training questions are too few for a development split; "
            "hold nothing out with --data.dev_share 0 --model.selection last"
        )
    return chosen


def _rank(arrival: NDArray[np.float64], group: NDArray[np.integer]) -> NDArray[np.intp]:
    """How many of each question's group arrive before it (N,)."""
    order = np.lexsort((arrival, group))
    grouped = group[order]
    rank = np.empty(len(order), np.intp)
    rank[order] = np.arange(len(order)) - np.searchsorted(grouped, grouped)
    return rank


def _apportion(annotations: Annotations, share: float) -> NDArray[np.int64]:
    """Whole numbers of questions per type whose sum is `share` of all, by the largest remainders."""
    types = annotations.question_type
    quota = share * np.bincount(types.codes, minlength=len(types.names))
    number: NDArray[np.int64] = np.floor(quota).astype(np.int64)
    left = max(int(np.floor(quota.sum() + 0.5)), 1) - number.sum()
    by_name = sorted(range(len(types.names)), key=lambda code: (number[code] - quota[code], types.names[code]))
    number[by_name[:left]] += 1
    return number
