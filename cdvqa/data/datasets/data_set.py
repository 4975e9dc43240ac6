"""What a data set is: its files, how they are read, and which test sets are in or out of distribution."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from cdvqa.data.answers.cached_targets import find_targets, read_answers, read_targets
from cdvqa.data.questions.annotations import Annotations
from cdvqa.data.questions.archives import Source, find_file, locate
from cdvqa.data.questions.official import (
    PlainQuestions,
    Questions,
    join_questions,
    read_annotations,
    read_plain_questions,
    read_question_ids,
)
from cdvqa.errors import InputError
from cdvqa.presets import SoftScore

Distribution = Literal["id", "ood", "mixed"]
TITLES = {"id": "in distribution", "ood": "out of distribution"}
WORLDS = {  # made by this package, by `cdvqa prepare` and these words
    "scenes": "scenes",
    "scenes-micro": "scenes --size micro",
    "scenes-vs": "scenes-vs",
    "scenes-vs-micro": "scenes-vs --size micro",
    "easyvqa": "easyvqa",
}


@dataclass(frozen=True)
class SplitFiles:
    """The files of one split, by their names under `data.root`.

    Attributes:
        questions, annotations: may be the same file.
        distribution: of a test split: in (`id`) or out of (`ood`) the distribution of the training questions, or
            `mixed` where it is made of both.
        optional: the split is left out where its questions do not exist.
        cached: name of the split in cached targets: `train` means cache/train_target.pkl.
        lists: files of question ids of this split, by the list's name.
        subsets: test sets inside this split, and the distribution of each; `read_subsets` gives their questions.
    """

    questions: str
    annotations: str
    distribution: Distribution | None = None
    optional: bool = False
    cached: str | None = None
    lists: Mapping[str, str] = field(default_factory=dict)
    subsets: Mapping[str, Distribution] = field(default_factory=dict)


class DataSet(ABC):
    """A data set: name it in `data.layout` by a short name (vqacp, vqavs, vqa2, …) or by `package.module.Class`.

    A subclass lists its files; where these are not in the official VQA format, it also reads them:

        class Rooms(DataSet):
            source = "Rooms: https://example.org/rooms"

            def splits(self):
                return {
                    "train": SplitFiles("rooms_train.json", "rooms_train.json"),
                    "night": SplitFiles("rooms_night.json", "rooms_night.json", "ood"),
                    "empty": SplitFiles("rooms_empty.json", "rooms_empty.json", "ood"),
                }

            def read_questions(self, source):
                fields = {"question_id": "id", "image_id": "photo", "question": "text"}
                records = read_records(source, "rooms")
                return PlainQuestions.of([{name: r.get(theirs) for name, theirs in fields.items()} for r in records])

            def read_annotations(self, source):
                return Annotations.of([self._annotation(record) for record in read_records(source, "rooms")])

            def _annotation(self, record):
                answer = record.get("answer")
                return {
                    "question_id": record.get("id"),
                    "question_type": record.get("topic"),
                    "answer_type": "other",
                    "multiple_choice_answer": answer,
                    "answers": [{"answer": answer}] * 10,
                }

    Question types and answer types are free. Files may be packed, or inside a zip archive (`find_file`).
    """

    source: ClassVar[str] = "the publisher of the data set"  # where its files may be obtained; `cdvqa check` prints it

    @abstractmethod
    def splits(self) -> dict[str, SplitFiles]:
        """`train`, `dev` if the data set has one of its own, and the test splits in the order of the report."""

    def means(self) -> dict[str, Sequence[str]]:
        """Means that the results report: test sets by name of the mean. By default `ood_mean` over two or more."""
        ood = [name for name, distribution in self.distributions().items() if distribution == "ood"]
        return {"ood_mean": ood} if len(ood) > 1 else {}

    def read_questions(self, source: Source) -> PlainQuestions:
        """Read a question file; InputError if it is broken."""
        return read_plain_questions(source)

    def read_annotations(self, source: Source) -> Annotations:
        """Read an annotation file; InputError if it is broken."""
        return read_annotations(source)

    def read_question_ids(self, source: Source) -> set[int]:
        """Read a list of question ids; InputError if it is broken."""
        return read_question_ids(source)

    def read_subsets(self, root: Path, split: str, question_id: NDArray[np.int64]) -> dict[str, set[int]]:
        """Question ids of the test sets inside a test split, which has the questions `question_id` (N,).

        Raises:
            InputError: a list is missing or broken, or has a question that is not in the split.
        """
        lists = self.splits()[split].lists.items()
        return {name: self.read_list(locate(root, file), split, question_id) for name, file in lists}

    # --- the same for every data set ------------------------------------------------------------------------------

    @property
    def has_dev(self) -> bool:
        """Whether the data set has a development split of its own; the others hold it out of train."""
        return "dev" in self.splits()

    def distributions(self) -> dict[str, Distribution]:
        """`id`, `ood` or `mixed` for every test split and for every test set inside one."""
        roles: dict[str, Distribution] = {}
        for name, files in self.splits().items():
            if files.distribution is not None:
                roles[name] = files.distribution
            roles |= files.subsets
        return roles

    def present(self, root: Path) -> dict[str, SplitFiles]:
        """The splits, without an optional one whose questions do not exist; InputError if the root is no folder."""
        if not root.is_dir():
            raise InputError(f"data.root {root}: no such folder; point --data.root at the official question files")
        splits = self.splits().items()
        return {name: files for name, files in splits if not files.optional or find_file(root, files.questions)}

    def files(self, root: Path, split: str) -> dict[str, str]:
        """Names under the root of a split's files by role: questions and annotations, or questions, targets, answers.

        Cached targets are taken where there are no annotations; InputError if they lack their vocabulary.
        """
        files = self.splits()[split]
        targets = None
        if files.cached and find_file(root, files.annotations) is None:
            targets = find_targets(root, files.cached)
        return {"questions": files.questions} | (targets or {"annotations": files.annotations})

    def refuse_missing(self, root: Path) -> None:
        """Raise InputError if a file that `fit` or `test` reads is not there; none is opened."""
        for split, files in self.present(root).items():
            for name in (*self.files(root, split).values(), *files.lists.values()):
                locate(root, name)

    def read(self, root: Path, split: str, rule: SoftScore) -> Questions:
        """Read a split and join its questions to its annotations, or to cached targets made by soft score `rule`.

        Raises:
            InputError: a file is missing or broken; an id is duplicate or only in one file; not ten answers.
        """
        files = self.files(root, split)
        questions = locate(root, files["questions"])
        plain = self.read_questions(questions)
        if "targets" in files:
            answers: Path | Source = root / files["targets"]
            annotations = read_targets(root / files["targets"], read_answers(root / files["answers"]), rule)
        else:
            answers = locate(root, files["annotations"])
            annotations = self.read_annotations(answers)
        return join_questions(plain, annotations, str(questions), str(answers))

    def read_list(self, source: Source, split: str, question_id: NDArray[np.int64] | None) -> set[int]:
        """Read a list of question ids; InputError if one is not among those of the split (N,), if they are known."""
        ids = self.read_question_ids(source)
        outside = set() if question_id is None else ids.difference(question_id.tolist())
        if outside:
            raise InputError(f"{source}: question {min(outside)} is not in {split} ({len(outside)} such questions)")
        return ids

    def read_apart(self, root: Path, split: str, question_id: NDArray[np.int64]) -> dict[str, set[int]]:
        """The lists of a split, as `read_subsets` gives them; InputError if two of them share a question."""
        lists, seen = DataSet.read_subsets(self, root, split, question_id), dict[int, str]()
        for name, ids in lists.items():
            if twice := ids & seen.keys():
                raise InputError(
                    f"{root}: question {min(twice)} is both in {seen[min(twice)]} and in {name}; fetch the lists again"
                )
            seen |= dict.fromkeys(ids, name)
        return lists


def made_by(name: str | None, root: Path) -> str | None:
    """How to make the embedded data set `name`; None for a data set that others publish."""
    return f"`cdvqa prepare {WORLDS[name]} --output {root}` makes this data set" if name in WORLDS else None
