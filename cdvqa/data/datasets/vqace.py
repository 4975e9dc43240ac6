"""VQA-CE: VQA v2 with its validation questions divided by whether mined shortcuts answer them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cdvqa.data.datasets.data_set import SplitFiles
from cdvqa.data.datasets.vqa2 import VQA2
from cdvqa.data.questions.annotations import check_fields, check_unique, integers
from cdvqa.data.questions.archives import Source
from cdvqa.data.questions.official import read_records


class VQACE(VQA2):
    """VQA-CE (Dancette et al., ICCV 2021): trained on VQA v2's train2014, tested on its val2014 (`all`).

    Rules mined on train2014 predict an answer from words and detected objects. They divide val2014 into
    `counterexamples` (63,298 questions: rules match and all are wrong), out of distribution; `easy` (147,681: at least
    one is right), in distribution; and `hard` (3,375: no rule matches), which is reported only as part of `all`.
    `all` is mixed.

    A list is a JSON list of question ids. The authors publish counterexamples and hard; easy is the rest.

    Verified: names and format in the authors' vqa.py and in code of two users, the rest in their README, the numbers on
    the project's page. The published lists themselves were not at hand.
    """

    source = (
        "VQA v2's files: the download page of visualqa.org; counterexamples.json and hard.json: the README of the "
        "repository detect-shortcuts of cdancette"
    )

    def splits(self) -> dict[str, SplitFiles]:
        splits = super().splits()
        val = replace(
            splits["test"],
            distribution="mixed",
            lists={"counterexamples": "counterexamples.json", "hard": "hard.json"},
            subsets={"counterexamples": "ood", "easy": "id"},
        )
        return {"train": splits["train"], "all": val}

    def read_question_ids(self, source: Source) -> set[int]:
        records = [{"question_id": number} for number in read_records(source, "question ids")]
        for number, record in enumerate(records):
            check_fields(record, {"question_id": int}, number, str(source))
        ids = integers(records, "question_id", str(source))
        check_unique(ids, str(source))
        return set(ids.tolist())

    def read_subsets(self, root: Path, split: str, question_id: NDArray[np.int64]) -> dict[str, set[int]]:
        lists = self.read_apart(root, split, question_id)
        counterexamples, hard = lists["counterexamples"], lists["hard"]
        return {"counterexamples": counterexamples, "easy": set(question_id.tolist()) - counterexamples - hard}
