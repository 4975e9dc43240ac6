"""The files of one split as they lie on the disk: plain, packed, or with cached targets in place of annotations."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cdvqa.data.answers.cached_targets import read_answers
from cdvqa.data.answers.vocabulary import AnswerVocabulary
from cdvqa.data.datasets import DataSet
from cdvqa.data.questions.archives import find_file
from cdvqa.data.questions.official import Questions
from cdvqa.errors import InputError
from cdvqa.presets import SoftScore
from cdvqa.tools.findings import Item, blame


class SplitFilesCheck:
    """The files that `PreparedQuestions` would read a split from.

    Args:
        data_set: the data set.
        root: folder of its files.
        split: its name.
        source: where the files may be obtained.

    Attributes:
        items: its files.
        has_cached_targets: whether these are used because there are no annotations.
    """

    def __init__(self, data_set: DataSet, root: Path, split: str, source: str) -> None:
        self._data_set, self._root, self._split = data_set, root, split
        problem = ""
        try:
            self._files = data_set.files(root, split)
        except InputError as error:  # cached targets without their vocabulary
            files, problem = data_set.splits()[split], str(error)
            self._files = {"questions": files.questions, "annotations": files.annotations}
        self.has_cached_targets = "targets" in self._files
        paths = {role: find_file(root, name) or root / name for role, name in self._files.items()}
        self.items = [Item.file(f"{split} {role}", path, source) for role, path in paths.items()]
        self.items[1].problem = self.items[1].problem or problem

    def read(self, rule: SoftScore) -> Questions | None:
        """The split, if it can be read; what keeps it from being read is put down in its file's item."""
        if any(item.state != "ok" for item in self.items):
            return None
        try:
            questions = self._data_set.read(self._root, self._split, rule)
        except InputError as error:
            blame(self.items, error)
            return None
        self.items[0].holds = counts(questions.question_id, questions.image_id)
        self.items[1].holds = f"{len(questions.annotations.question_type.names)} question types"
        return questions

    def vocabulary(self, train: Questions, min_count: int) -> AnswerVocabulary:
        """The answers that a network trained on this split knows."""
        if self.has_cached_targets:
            return AnswerVocabulary(read_answers(self._root / self._files["answers"]))
        return AnswerVocabulary.from_annotations(train.annotations, min_count)


def counts(question_id: NDArray[np.int64], image_id: NDArray[np.int64]) -> str:
    """How much there is of what a question file holds."""
    return f"{len(question_id):,} questions on {len(np.unique(image_id)):,} images"
