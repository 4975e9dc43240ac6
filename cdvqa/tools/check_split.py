"""The files of one split as they lie on the disk: plain, packed, or with cached targets in place of annotations."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cdvqa.data.answers.cached_targets import find_targets, read_answers, read_targets
from cdvqa.data.answers.vocabulary import AnswerVocabulary, ScoreRule
from cdvqa.data.datasets.layouts import Layout, SplitFiles
from cdvqa.data.questions.archives import find
from cdvqa.data.questions.official import Questions, join_questions, read_questions
from cdvqa.errors import InputError
from cdvqa.tools.findings import Item, blame


class SplitFilesCheck:
    """Where `PreparedQuestions` would take a split's questions and answers from.

    Args:
        layout: of the data set.
        root: folder of the official files.
        split: its name.
        files: its official files.
        source: where they may be had.

    Attributes:
        items: its files.
        is_foreign: whether the answers are targets that others computed.
    """

    def __init__(self, layout: Layout, root: Path, split: str, files: SplitFiles, source: str) -> None:
        self._questions = find(root, files.questions) or root / files.questions
        self._annotations = find(root, files.annotations) or root / files.annotations
        asked = Item.file(f"{split} questions", self._questions, source)
        self._foreign, problem = None, ""
        if not self._annotations.is_file():
            try:
                self._foreign = find_targets(layout, split, root)
            except InputError as error:  # targets without their vocabulary
                problem = str(error)
        self.is_foreign = self._foreign is not None
        if self._foreign is None:
            answered = Item.file(f"{split} annotations", self._annotations, source)
            answered.problem = answered.problem or problem
            self.items = [asked, answered]
        else:
            self._targets, self._answers = (root / name for name in self._foreign)
            kinds = {f"{split} targets": self._targets, f"{split} answers": self._answers}
            self.items = [asked, *(Item.file(what, path, source) for what, path in kinds.items())]

    def read(self, rule: ScoreRule) -> Questions | None:
        """The split, if it can be read; what keeps it from being read is put down in its file's item."""
        if any(item.state != "ok" for item in self.items):
            return None
        try:
            questions = self._read(rule)
        except InputError as error:
            blame(self.items, error)
            return None
        self.items[0].holds = counts(questions.question_id, questions.image_id)
        self.items[1].holds = f"{len(questions.annotations.question_type.names)} question types"
        return questions

    def vocabulary(self, train: Questions, min_count: int) -> AnswerVocabulary:
        """The answers that a network trained on this split knows."""
        if self.is_foreign:
            return AnswerVocabulary(read_answers(self._answers))
        return AnswerVocabulary.from_annotations(train.annotations, min_count)

    def _read(self, rule: ScoreRule) -> Questions:
        if not self.is_foreign:
            return read_questions(self._questions, self._annotations)
        annotations = read_targets(self._targets, read_answers(self._answers), rule)
        return join_questions(self._questions, annotations, str(self._targets))


def counts(question_id: NDArray[np.int64], image_id: NDArray[np.int64]) -> str:
    """How much there is of what a question file holds."""
    return f"{len(question_id):,} questions on {len(np.unique(image_id)):,} images"
