"""The data files that a config needs, and whether questions, annotations and features fit together."""

from pathlib import Path

import numpy as np

from cdvqa.data.answers import AnswerVocabulary
from cdvqa.data.datamodule import VQADataModule
from cdvqa.data.features import RegionFeatures
from cdvqa.data.layouts import OOD_SETS, SplitFiles, ood_file, split_files
from cdvqa.data.questions import Questions, read_question_ids, read_questions
from cdvqa.data.targets import SoftTargets
from cdvqa.errors import InputError
from cdvqa.tools.findings import Finding, Item, Report, reason

QUESTION_SOURCES = {
    "vqacp": "VQA-CP v2: Aishwarya Agrawal's page of the GVQA project, questions and annotations of train and test",
    "vqa2": "VQA v2: the download page of visualqa.org, questions and annotations of train2014 and val2014",
    "vqavs": "VQA-VS: the repository VQA-VS of PhoebusSi",
}
FEATURE_SOURCE = (
    "trainval2014_36 of the bottom-up-attention project, or obj36 of the LXMERT project (TSV), then "
    "`cdvqa prepare features --input FILE.tsv --output {}`"
)
WORLDS = ("scenes", "scenes-vs", "easyvqa")
SAMPLE = 64  # images whose features are looked at
SLACK = 0.01  # detectors put boxes a pixel beyond the edge; boxes in pixels are off by far more
HALF = float(np.finfo(np.float16).max)


def check_data(data: VQADataModule, region_width: int | None) -> Report:
    """Look at every data file of `data`.

    Args:
        data: the config's data module; nothing has been read.
        region_width: F that the backbone takes, if it takes regions.
    """
    report = Report([], [])
    features = _open_features(data, report)
    splits = _read_splits(data, report, features)
    if "train" in splits:
        report.findings.extend(_vocabulary(splits["train"], data))
    if data.layout == "vqavs":
        _read_ood_sets(data, report, splits.get("iid"))
    if features is not None:
        report.findings.extend(_features(features, region_width))
    return report


def _open_features(data: VQADataModule, report: Report) -> RegionFeatures | None:
    item = Item.file("region features", data.features_file, _source(data, FEATURE_SOURCE.format(data.features_file)))
    report.items.append(item)
    if item.size is None:
        return None
    try:
        features = RegionFeatures(data.features_file)
        dtype = features.fingerprint()["dtype"]
    except InputError as error:
        item.problem = reason(error, data.features_file)
        return None
    images, regions, width = features.shape
    item.holds = f"{images:,} images, {regions} x {width} {dtype}"
    return features


def _read_splits(data: VQADataModule, report: Report, features: RegionFeatures | None) -> dict[str, Questions]:
    splits = {}
    # The names do not depend on the folder; any other stands in for one that is missing.
    for split, files in split_files(data.layout, data.root if data.root.is_dir() else Path(__file__).parent).items():
        questions = _read_split(data, split, files, report)
        if questions is not None:
            splits[split] = questions
            if features is not None:
                report.findings.append(_coverage(split, questions, features))
    return splits


def _read_split(data: VQADataModule, split: str, files: SplitFiles, report: Report) -> Questions | None:
    source = _source(data, QUESTION_SOURCES[data.layout])
    paths = SplitFiles(str(data.root / files.questions), str(data.root / files.annotations))
    asked = Item.file(f"{split} questions", Path(paths.questions), source)
    answered = Item.file(f"{split} annotations", Path(paths.annotations), source)
    report.items.extend((asked, answered))
    if asked.size is None or answered.size is None:
        return None
    try:
        questions = read_questions(*paths)
    except InputError as error:
        wrong = answered if str(error).startswith(paths.annotations) else asked
        wrong.problem = reason(error, wrong.where)
        return None
    asked.holds = f"{len(questions):,} questions on {len(np.unique(questions.image_id)):,} images"
    answered.holds = f"{len(questions.annotations.question_type.names)} question types"
    return questions


def _read_ood_sets(data: VQADataModule, report: Report, iid: Questions | None) -> None:
    for name in OOD_SETS:
        path = ood_file(data.root, name)
        item = Item.file(f"OOD {name} questions", path, QUESTION_SOURCES[data.layout])
        report.items.append(item)
        if item.size is None:
            continue
        try:
            ids = read_question_ids(path)
        except InputError as error:
            item.problem = reason(error, path)
            continue
        item.holds = f"{len(ids):,} questions"
        if iid is not None:
            foreign = len(ids.difference(iid.question_id.tolist()))
            report.findings.append(Finding(not foreign, f"OOD {name}: {foreign} questions are not in the IID test"))


def _coverage(split: str, questions: Questions, features: RegionFeatures) -> Finding:
    absent = np.flatnonzero(~np.isin(questions.image_id, features.image_id))
    if not len(absent):
        return Finding(True, f"{split}: every question's image has features")
    first = absent[0]
    return Finding(
        False,
        f"{split}: {len(absent):,} questions on {len(np.unique(questions.image_id[absent])):,} images have no features "
        f"(first: question {questions.question_id[first]}, image {questions.image_id[first]})",
    )


def _vocabulary(train: Questions, data: VQADataModule) -> list[Finding]:
    vocabulary = AnswerVocabulary.from_annotations(train.annotations, data.min_count)
    size = f"train has {len(vocabulary):,} answers with at least {data.min_count} questions"
    if len(vocabulary) == data.num_answers:
        findings = [Finding(True, f"{size}, as data.num_answers says")]
    else:
        remedy = f"data.num_answers says {data.num_answers:,}: set --data.num_answers {len(vocabulary)}"
        findings = [Finding(False, f"{size}, but {remedy}")]
    answered = float((SoftTargets.from_annotations(train.annotations, vocabulary).best_label >= 0).mean())
    share = f"{answered:.2%} of the training questions have an answer in the vocabulary"
    return [*findings, Finding(answered > 0, share)]


def _features(features: RegionFeatures, region_width: int | None) -> list[Finding]:
    findings = []
    if region_width is not None:
        width = features.shape[2]
        findings.append(Finding(width == region_width, f"features are {width} wide, the backbone takes {region_width}"))
    rows = np.unique(np.linspace(0, len(features) - 1, SAMPLE).astype(int))
    try:
        values, boxes, _ = features.read(features.image_id[rows])
    except InputError as error:
        return [*findings, Finding(False, str(error))]
    low, high = float(values.min()), float(values.max())
    halves = "" if max(-low, high) <= HALF else ", too large for float16"
    finite = f"features of {len(rows)} sampled images are finite, {low:.4g} to {high:.4g}{halves}"
    first, last = float(boxes.min()), float(boxes.max())
    shares = f"their boxes reach from {first:.4g} to {last:.4g} of the image's width and height"
    return [*findings, Finding(True, finite), Finding(first >= -SLACK and last <= 1 + SLACK, shares)]


def _source(data: VQADataModule, official: str) -> str:
    """An embedded world comes from this package, anything else from its makers."""
    if data.name in WORLDS:
        return f"`cdvqa prepare {data.name} --output {data.root}` makes this data set"
    return official
