"""The questions and answers that a config needs, and whether they fit each other and the features."""

import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cdvqa.data.answers.targets import SoftTargets
from cdvqa.data.answers.vocabulary import AnswerVocabulary
from cdvqa.data.datamodule import VQADataModule
from cdvqa.data.questions.archives import find_file
from cdvqa.data.questions.extra_text import ExtraText
from cdvqa.data.questions.official import (
    Questions,
    read_own_questions,
    read_plain_questions,
    read_question_ids,
)
from cdvqa.data.visual.source import VisualSource
from cdvqa.errors import InputError
from cdvqa.stages import VQAStage
from cdvqa.stages.compatibility import needs_question_types
from cdvqa.tools.check_split import SplitFilesCheck, counts
from cdvqa.tools.findings import Finding, Item, Report, made_by, reason

ASKED = "write it: a JSON list of {question_id, image_id, question}"
ANSWER_TYPES = ("yes/no", "number", "other")


def check_data(data: VQADataModule, stage: VQAStage, visual: VisualSource | None) -> Report:
    """Look at every file of questions and answers.

    Args:
        data: the config's data module; nothing has been read.
        stage: which soft score and objective it trains with.
        visual: the reader of the features or images, if they are readable.
    """
    report = Report([], [])
    vocabulary: AnswerVocabulary | None = None
    source = made_by(data, data.data_set.source)
    splits = data.data_set.splits()
    for split in data.data_set.present(data.root) if data.root.is_dir() else splits:
        on_disk = SplitFilesCheck(data.data_set, data.root, split, source)
        report.items.extend(on_disk.items)
        questions = on_disk.read(stage.protocol.soft_score)
        for name, file in splits[split].ood_subsets.items():
            _look_at_subset(name, file, split, data, report, None if questions is None else questions.question_id)
        if questions is None:
            continue
        if split == "train":
            vocabulary = on_disk.vocabulary(questions, data.min_count)
            report.findings.append(_size(vocabulary, on_disk.has_cached_targets, data))
        report.findings.extend(_coverage(split, questions.question_id, questions.image_id, visual))
        report.findings.extend(_answers(split, questions, vocabulary))
        if on_disk.has_cached_targets:
            report.findings.append(_cached_targets(split, questions, stage))
    report.findings.extend(_broken_archives(data.root) if report.wanting else [])
    return report


def check_asked(file: Path, visual: VisualSource | None) -> Report:
    """Look at questions of one's own, which `predict` answers: they need no annotations and no other split."""
    item = Item.file("own questions", file, ASKED)
    if item.state != "ok":
        return Report([item], [])
    try:
        asked = read_plain_questions(file) if visual is None else read_own_questions(file, visual)
    except InputError as error:
        item.problem = reason(error, file)
        return Report([item], [])
    item.holds = counts(asked.question_id, asked.image_id)
    return Report([item], _coverage("own questions", asked.question_id, asked.image_id, visual))


def check_extra_text(path: Path) -> Report:
    """Look at what is written behind the questions."""
    item = Item.file("extra text", path, "the processed VQA v2 files of the mPLUG project, in one JSON list")
    if item.state == "ok":
        try:
            item.holds = f"{len(ExtraText(path)):,} questions"
        except InputError as error:
            item.problem = reason(error, path)
    return Report([item], [])


def _look_at_subset(
    name: str, file: str, split: str, data: VQADataModule, report: Report, whole: NDArray[np.int64] | None
) -> None:
    path = find_file(data.root, file) or data.root / file
    item = Item.file(f"{name} questions", path, data.data_set.source)
    report.items.append(item)
    if item.state != "ok":
        return
    try:
        ids = read_question_ids(path)
    except InputError as error:
        item.problem = reason(error, path)
        return
    item.holds = f"{len(ids):,} questions"
    if whole is not None:
        outside = len(ids.difference(whole.tolist()))
        report.findings.append(Finding.of(not outside, f"{name}: {outside} questions are not in {split}"))


def _coverage(
    split: str, question_id: NDArray[np.int64], image_id: NDArray[np.int64], visual: VisualSource | None
) -> list[Finding]:
    if visual is None:
        return []
    absent = np.flatnonzero(~np.isin(image_id, visual.image_id))
    if not len(absent):
        return [Finding("ok", f"{split}: every question's image has {visual.gives}")]
    first = absent[0]
    return [
        Finding(
            "WRONG",
            f"{split}: {len(absent):,} questions on {len(np.unique(image_id[absent])):,} images lack {visual.gives} "
            f"(first: question {question_id[first]}, image {image_id[first]})",
        )
    ]


def _size(vocabulary: AnswerVocabulary, has_cached_targets: bool, data: VQADataModule) -> Finding:
    rule = "" if has_cached_targets else f" with at least {data.min_count} questions"
    size = f"train has {len(vocabulary):,} answers{rule}"
    if len(vocabulary) == data.num_answers:
        return Finding("ok", f"{size}, as data.num_answers says")
    if not len(vocabulary):
        return Finding("WRONG", f"{size}; lower --data.min_count")
    remedy = f"data.num_answers says {data.num_answers:,}: set --data.num_answers {len(vocabulary)}"
    return Finding("WRONG", f"{size}, but {remedy}")


def _answers(split: str, questions: Questions, vocabulary: AnswerVocabulary | None) -> list[Finding]:
    findings = []
    if vocabulary is not None:
        targets = SoftTargets.from_annotations(questions.annotations, vocabulary)
        share = float((targets.best_label >= 0).mean())
        findings.append(
            Finding.of(share > 0, f"{split}: {share:.2%} of the questions have an answer in the vocabulary")
        )
    column = questions.annotations.answer_type
    numbers = zip(column.names, np.bincount(column.codes), strict=True)
    told = ", ".join(f"{number:,} {name or '(none)'}" for name, number in sorted(numbers))
    own = [repr(name) for name in column.names if name not in ANSWER_TYPES]
    remark = f" ({', '.join(own)}: not one of VQA's {', '.join(ANSWER_TYPES)}; taken as it is)" if own else ""
    return [*findings, Finding("note" if own else "ok", f"{split}: answer types: {told}{remark}")]


def _cached_targets(split: str, questions: Questions, stage: VQAStage) -> Finding:
    text = f"{split}: cached targets stand in for the annotations; official accuracy will be a lower bound"
    untyped = split == "train" and questions.annotations.question_type.names == [""]
    if untyped and needs_question_types(stage.objective):
        needs = f"--model.objective {stage.objective_name} needs"
        return Finding("WRONG", f"{text}, and they name no question types, which {needs}")
    return Finding("note", text)


def _broken_archives(root: Path) -> list[Finding]:
    """What is missing may be in them."""
    broken = [path for path in sorted(root.glob("*.zip")) if not zipfile.is_zipfile(path)]
    return [Finding("WRONG", f"{path}: no readable zip archive; fetch it again") for path in broken]
