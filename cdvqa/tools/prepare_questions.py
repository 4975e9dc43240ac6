"""`cdvqa prepare questions`: read every split that is there, and keep what `fit` would derive from it."""

import time
from typing import TYPE_CHECKING

import numpy as np
from rich.filesize import decimal

if TYPE_CHECKING:
    from cdvqa.data.prepared import PreparedQuestions


def questions() -> None:
    """Read questions and keep vocabulary, priors, targets and word pieces in <data.root>/.cdvqa/.

    Takes the options of `cdvqa fit`: --config stage1_bce.yaml --config vqavs.yaml --data.root DIR. Features and
    weights are not looked at. Files are rebuilt when what they were made from has changed.
    """
    raise AssertionError("only its help is for the parser of `cdvqa prepare`")


def run(args: list[str]) -> None:
    """Prepare the data set of the config in `args`."""
    from cdvqa.cli.inspect import ConfigInspector
    from cdvqa.data.questions.archives import find_file

    config = ConfigInspector(args, "cdvqa prepare questions", (questions.__doc__ or "").splitlines()[0])
    data = config.datamodule
    prepared = data.prepare()
    present = data.data_set.present(data.root)
    for split in prepared.splits:
        files = present.get(split)
        if split != "train" and files and find_file(prepared.root, files.questions) is None:
            print(f"{split}: left out: {files.questions} is not there")
            continue
        start, read = time.perf_counter(), set(prepared.digests)
        counts = describe(prepared, split)
        size = sum(file["bytes"] for name, file in prepared.digests.items() if name not in read)
        origin = f"from {decimal(size)}" if files else "held out of train"
        print(f"{split}: {counts}, {origin}, {time.perf_counter() - start:.1f} s", flush=True)
    types, answers = prepared.prior.table.shape
    kept = sum(file.stat().st_size for file in prepared.folder.glob("*"))
    print(f"{prepared.folder}: {answers:,} answers, priors of {types} question types, {decimal(kept)}")
    if answers != data.num_answers:
        print(f"data.num_answers is {data.num_answers}: set --data.num_answers {answers}")


def describe(prepared: "PreparedQuestions", split: str) -> str:
    """Counts of a split, which is read now."""
    questions, tokens, targets = prepared.split(split)
    answered = float((targets.best_label >= 0).mean())
    return (
        f"{len(questions):,} questions on {len(np.unique(questions.image_id)):,} images, "
        f"{len(questions.annotations.question_type.names)} question types, {answered:.2%} with an answer in the "
        f"vocabulary, {tokens.ids.shape[1]} word pieces each"
    )
