"""GQA-OOD: GQA, tested separately on frequent (head) and rare (tail) answers."""

import re
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdvqa.data.answers.normalisation import normalise_answer
from cdvqa.data.datasets.data_set import DataSet, SplitFiles
from cdvqa.data.questions.annotations import Annotations, check_fields
from cdvqa.data.questions.archives import Source
from cdvqa.data.questions.official import PlainQuestions, no_garbage_collection, read_content
from cdvqa.data.visual.image_files import image_number
from cdvqa.errors import InputError

_FIELDS = {"imageId": str, "question": str, "answer": str, "types": dict}
_TYPES = {"detailed": str, "structural": str}


class GQAOOD(DataSet):
    """GQA-OOD (Kervadec et al., CVPR 2021): trained on GQA's balanced train, tested on part of its balanced testdev.

    The authors take the question groups with imbalanced answers. `tail` has the questions of a group's rare answers,
    out of distribution, and `head` those of its frequent answers, in distribution. `all` is their union and so mixed:
    the authors report acc-all beside acc-head and acc-tail to show that it hides the difference. `dev` is the authors'
    validation set, made from GQA's val in the same way.

    A file is an object of GQA's questions by id. What is read of a question:

    - Question type: `types.detailed` (categoryThat, chooseAttr, …), the finest of GQA's types. Answer type: `open`
      where `types.structural` is query, else `binary`, as in GQA's evaluation and that of the authors.
    - Answer: normalised as all answers are ("t-shirt" becomes "t shirt"), ten times, so that accuracy is exact match.
      Of the 1,842 answers of balanced train and val, only the few with a hyphen or an article change, and no two of
      them become the same.
    - Question id: GQA's digits after a 1, so 001172 is 1001172; as plain integers, 001172 and 1172 would be the same.
    - Image id: `image_number` of `imageId`, so n161313 is −161313.

    Verified: fields and ids in the authors' testdev head and tail and in a part of their val, file names in their
    evaluation.py and README, those of val in code of users, train's in LXMERT's, the 1,842 answers in LXMERT's list.
    """

    source = (
        "train_balanced_questions.json: questions1.2.zip of GQA's download page (cs.stanford.edu/people/dorarad/gqa); "
        "ood_*.json: data/ of the repository GQA-OOD of gqa-ood"
    )

    def splits(self) -> dict[str, SplitFiles]:
        train, dev, test = "train_balanced_questions.json", "ood_val_all.json", "ood_testdev_all.json"
        return {
            "train": SplitFiles(train, train),
            "dev": SplitFiles(dev, dev),
            "all": SplitFiles(
                test,
                test,
                "mixed",
                lists={"head": "ood_testdev_head.json", "tail": "ood_testdev_tail.json"},
                subsets={"head": "id", "tail": "ood"},
            ),
        }

    @no_garbage_collection()
    def read_questions(self, source: Source) -> PlainQuestions:
        return PlainQuestions.of(_records(source), str(source))

    @no_garbage_collection()
    def read_annotations(self, source: Source) -> Annotations:
        return Annotations.of([_annotation(record) for record in _records(source)], str(source))

    def read_subsets(self, root: Path, split: str, question_id: NDArray[np.int64]) -> dict[str, set[int]]:
        return self.read_apart(root, split, question_id)

    def read_question_ids(self, source: Source) -> set[int]:
        return {_number(name, source) for name in _by_id(source)}


def _annotation(record: dict[str, Any]) -> dict[str, Any]:
    answer = normalise_answer(record["answer"])
    return {
        "question_id": record["question_id"],
        "question_type": record["types"]["detailed"],
        "answer_type": "open" if record["types"]["structural"] == "query" else "binary",
        "multiple_choice_answer": answer,
        "answers": [{"answer": answer}] * 10,
    }


def _records(source: Source) -> list[dict[str, Any]]:
    """GQA's questions with a `question_id` and an `image_id` that are integers; InputError if one is broken."""
    records = []
    for row, (name, found) in enumerate(_by_id(source).items()):
        number = _number(name, source)
        check_fields(found, {}, row, str(source))
        check_fields({"question_id": name} | found, _FIELDS, row, str(source))
        check_fields({"question_id": name} | found["types"], _TYPES, row, str(source))
        image = image_number(found["imageId"])
        if image is None:
            where = f"{source}: record {row} (question {name}): 'imageId' {found['imageId'][:40]!r}"
            raise InputError(f"{where} is neither a number nor n and a number")
        records.append(found | {"question_id": number, "image_id": image})
    return records


def _by_id(source: Source) -> dict[str, Any]:
    """What a file has under the ids of its questions, not yet checked."""
    content = read_content(source, object_pairs_hook=partial(_kept, source))
    if not isinstance(content, dict) or not content:
        raise InputError(f"{source}: holds no object of questions by id, as GQA's files do; fetch it again")
    return content


def _kept(source: Source, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of a file; of a question only what is read, since the rest is most of it."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise InputError(f"{source}: duplicate entry {twice!r}; remove one of the two")
    return {name: found[name] for name in _FIELDS if name in found} if "imageId" in found else found


def _number(name: str, source: Source) -> int:
    """A question's id as an integer."""
    if not re.fullmatch("[0-9]{1,17}", name):
        raise InputError(f"{source}: question {name[:40]!r} must have an id of digits, at most 17, as GQA's are")
    return int(f"1{name}")
