"""The score of every question of a run, kept with its results so that a report can resample the questions."""

import zlib
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from cdvqa.data.datasets import make_data_set
from cdvqa.errors import InputError
from cdvqa.files import read_json
from cdvqa.runs.folder import Run

MOST = 20_000  # questions of a split: records are committed, so they must stay small


@dataclass(frozen=True)
class QuestionScores:
    """The scores of one split.

    Attributes:
        question_id: (N,).
        thirds: (N,) three times the score by the paper's rule: 0, 1, 2 or 3.
        answer_types, sets: (N,) masks of the questions of each answer type, and of each test set inside the split.
    """

    question_id: NDArray[np.int64]
    thirds: NDArray[np.uint8]
    answer_types: Mapping[str, NDArray[np.bool_]]
    sets: Mapping[str, NDArray[np.bool_]]

    @classmethod
    def unpack(cls, kept: Mapping[str, Any]) -> "QuestionScores":
        """What `scores_of` has packed."""
        thirds = unpacked(kept["thirds"], np.uint8)
        masks = [
            {name: np.unpackbits(unpacked(text, np.uint8), count=len(thirds)).astype(bool) for name, text in group}
            for group in (kept["answer_types"].items(), kept["sets"].items())
        ]
        return cls(np.cumsum(unpacked(kept["question_id"], np.int64)), thirds, *masks)


@dataclass(frozen=True)
class Gold:
    """The questions of a split, in the order of its file.

    Attributes:
        question_id: N ids.
        thirds: N human answers, as thirds of the score that each earns.
        groups: what `scores_of` returns of them: question_id, answer_types and sets.
    """

    question_id: list[int]
    thirds: list[dict[str, int]]
    groups: dict[str, Any]


def scores_of(run: Run, results: Mapping[str, Any]) -> dict[str, Any]:
    """The scores of a run's questions as a record keeps them, by split: JSON with packed arrays.

    A split is left out if its questions or predictions are not there or do not belong to the results, or if it has more
    than 20,000 questions.

    Args:
        run: the run.
        results: the content of its results.json.
    """
    splits: Any = results.get("splits")
    try:
        layout, root = layout_and_root(run)
        tested = [name for name in splits if run.predictions(name).is_file()] if isinstance(splits, dict) else []
    except (OSError, ValueError, LookupError, TypeError, yaml.YAMLError):
        return {}
    found: dict[str, Any] = {}
    for name in tested:
        try:
            gold, answers = read_gold(layout, root, name), read_json(run.predictions(name))
            if len(answers) > MOST or [row["question_id"] for row in answers] != gold.question_id:
                continue
            pairs = zip(gold.thirds, answers, strict=True)
            thirds = np.array([earned.get(row["answer"], 0) for earned, row in pairs], np.uint8)
            # The data may have been rebuilt since the test.
            if abs(100 * thirds.mean() / 3 - splits[name]["all"]) < 1e-6:
                found[name] = {**gold.groups, "thirds": packed(thirds)}
        except (InputError, OSError, ValueError, LookupError, TypeError):
            continue
    return found


def layout_and_root(run: Run) -> tuple[str, Path]:
    """Layout and folder of a run's questions, from its config.yaml."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    data = yaml.load(run.config.read_text(encoding="utf-8"), loader)["data"]
    return data["layout"], Path(data["root"])


@lru_cache(maxsize=8)
def read_gold(layout: str, root: Path, split: str) -> Gold:
    """The questions of a test split, cached: the runs of a study share them.

    Raises:
        InputError: a file is missing or broken.
    """
    data_set = make_data_set(layout)
    annotations = data_set.read(root, split, "third").annotations
    ids, types = annotations.question_id, annotations.answer_type
    earned = [
        {answer: min(count, 3) for answer, count in Counter(annotations.answers[row]).items()}
        for row in range(len(ids))
    ]
    groups = {
        "question_id": packed(np.diff(ids, prepend=0)),
        "answer_types": {name: packed(np.packbits(types.codes == code)) for code, name in enumerate(types.names)},
        "sets": {
            name: packed(np.packbits(np.isin(ids, list(members))))
            for name, members in data_set.read_subsets(root, split, ids).items()
        },
    }
    return Gold(ids.tolist(), earned, groups)


def packed(array: NDArray[Any]) -> str:
    """An array as compressed text."""
    return b64encode(zlib.compress(array.tobytes(), 9)).decode()


def unpacked(text: str, kind: type[np.generic]) -> NDArray[Any]:
    """The array of `packed`."""
    return np.frombuffer(zlib.decompress(b64decode(text)), kind)
