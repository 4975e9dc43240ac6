"""Single questions with the answers of several models, for the browser of a report."""

import io
from base64 import b64encode
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cdvqa.cli.inspect import ConfigInspector
from cdvqa.data.datamodule import VQADataModule
from cdvqa.data.questions.official import Questions
from cdvqa.data.visual.features import RegionFeatures
from cdvqa.data.visual.image_files import picture_paths, upright
from cdvqa.errors import InputError
from cdvqa.files import read_json
from cdvqa.metrics import vqa_score
from cdvqa.runs.folder import Run, percent
from cdvqa.studies.report.table import folders_of

MODELS = 12
QUESTIONS = 500
BOXES = 10  # drawn on an image
SIDE = 256  # pixels of an image that is scaled down
SMALL = 8_000  # bytes of an image that is taken as it is
BUDGET = 10_000_000  # bytes of all images, so that the page stays below 20 MB
KINDS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
PRIOR = 5  # answers of a question type that are shown


def browse(runs: pd.DataFrame, logs: Path) -> tuple[dict[str, Any], list[str]]:
    """What the browser of single questions shows: models and questions of one data set, that of the most runs.

    Args:
        runs: tested runs.
        logs: folder of their run folders.

    Returns:
        JSON-able `{"data", "models", "questions", "priors", "images"}`, empty where there are no predictions or no
        data; and a line on everything that was left out.
    """
    chosen = models(runs, logs)
    if chosen.empty:
        return {}, []
    folders = folders_of(chosen, logs)
    try:
        module = ConfigInspector(["--config", str(folders[0].config)]).datamodule
        prepared = module.prepare()
        splits = [name for name in prepared.test_splits if all(run.predictions(name).is_file() for run in folders)]
        questions: list[dict[str, Any]] = []
        for split in splits:
            whole = prepared.split(split).questions
            rows = spaced(len(whole), QUESTIONS // len(splits))
            questions += answered(split, whole.select(rows), folders)
        names, prior = prepared.vocabulary.answers, prepared.prior
        priors = {kind: usual_answers(names, row) for kind, row in zip(prior.question_types, prior.table, strict=True)}
    except (InputError, OSError, ValueError, LookupError, TypeError) as error:
        return {}, [f"single questions left out: {error}"]
    zeros = [f", {percent(share)} % zeros" if share else "" for share in chosen["sparsity"]]
    labels = [curve + share for curve, share in zip(chosen["curve"], zeros, strict=True)]
    images, problems = pictures(module, [question["image"] for question in questions])
    content = {"data": str(chosen["data"].iloc[0]), "models": labels, "questions": questions}
    return {**content, "priors": priors, "images": images}, problems


def usual_answers(names: Sequence[str], prior: NDArray[np.float32]) -> list[tuple[str, float]]:
    """The most probable answers of a question type, with their prior."""
    return [
        (names[answer], round(float(prior[answer]), 3)) for answer in np.argsort(-prior)[:PRIOR] if prior[answer] > 0
    ]


def models(runs: pd.DataFrame, logs: Path) -> pd.DataFrame:
    """At most twelve runs with predictions, of the data set that has most of them.

    Each is the first seed of a curve at the sparsity nearest 50 %.
    """
    runs = runs[[(run.folder / "predictions").is_dir() for run in folders_of(runs, logs)]]
    if runs.empty:
        return runs
    runs = runs[runs["data"] == runs["data"].mode().iloc[0]]
    order = runs.assign(far=(runs["sparsity"] - 0.5).abs()).sort_values(["stage", "far", "seed"], kind="stable")
    return order.drop_duplicates(["backbone", "curve"]).head(MODELS)


def spaced(number: int, most: int) -> NDArray[np.intp]:
    """Indices of at most `most` of `number` rows, evenly spaced."""
    return np.unique(np.linspace(0, number - 1, min(number, most)).astype(np.intp))


def answered(split: str, questions: Questions, runs: Sequence[Run]) -> list[dict[str, Any]]:
    """A record for each question: its text, the human answers, and each model's prediction with its score."""
    predictions = [{row["question_id"]: row["answer"] for row in read_json(run.predictions(split))} for run in runs]
    annotations, found = questions.annotations, []
    for row, (question_id, text) in enumerate(zip(questions.question_id.tolist(), questions.text, strict=True)):
        answers = annotations.answers[row]
        predicted = [of_run[question_id] for of_run in predictions]
        found.append(
            {
                "id": question_id,
                "split": split,
                "image": int(questions.image_id[row]),
                "text": text,
                "question_type": annotations.question_type[row],
                "answer_type": annotations.answer_type[row],
                "answers": Counter(answers).most_common(),
                "predictions": predicted,
                "scores": [round(vqa_score(answer, answers), 2) for answer in predicted],
            }
        )
    return found


def pictures(module: VQADataModule, wanted: Sequence[int]) -> tuple[dict[int, dict[str, Any]], list[str]]:
    """Images and boxes of a data set, as far as it has them.

    Args:
        module: the data set.
        wanted: ids of the images.

    Returns:
        By image id `{"uri", "boxes"}`: the image as a data URI, and boxes x1, y1, x2, y2 from 0 to 1. And a line
        on everything that was left out.
    """
    found: dict[int, dict[str, Any]] = {}
    problems = []
    image_ids = sorted(set(wanted))
    folder, features = module.images_folder, module.features_file
    try:
        files = picture_paths(folder)
        left = BUDGET
        for image_id in image_ids:
            if image_id in files and len(uri := data_uri(files[image_id])) < left:
                left -= len(uri)
                found[image_id] = {"uri": uri}
    except InputError as error:
        problems.append(f"images left out: {error}")
    try:
        if features.is_file():
            reader = RegionFeatures(features)
            image_ids = sorted(set(image_ids) & set(reader.image_id.tolist()))
            _, boxes, mask = reader.read(image_ids)
            for row, image_id in enumerate(image_ids):
                real = boxes[row][mask[row]] if mask is not None else boxes[row]
                found.setdefault(image_id, {})["boxes"] = [[round(float(x), 3) for x in box] for box in real[:BOXES]]
    except InputError as error:
        problems.append(f"boxes left out: {error}")
    return found, problems


def data_uri(path: Path) -> str:
    """An image for a page; a large one is scaled down."""
    content, kind = path.read_bytes(), KINDS[path.suffix.lower()]
    if len(content) > SMALL:
        image = upright(path)
        image.thumbnail((SIDE, SIDE))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=75)
        content, kind = buffer.getvalue(), "jpeg"
    return f"data:image/{kind};base64,{b64encode(content).decode()}"
