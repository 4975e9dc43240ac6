"""The files that `cdvqa check` looks at, through the readers that training uses."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from cdvqa.backbones import Backbone
from cdvqa.data.answers.cached_targets import read_answers
from cdvqa.data.answers.vocabulary import AnswerVocabulary, count_answers
from cdvqa.data.datamodule import VQADataModule
from cdvqa.data.datasets import made_by
from cdvqa.data.questions.annotations import Annotations
from cdvqa.data.questions.archives import find_file
from cdvqa.data.questions.extra_text import ExtraText
from cdvqa.data.questions.official import PlainQuestions, Questions, read_own_questions, read_plain_questions
from cdvqa.data.questions.text import load_tokenizer, vocabulary_size
from cdvqa.data.visual.images import ImageFolder
from cdvqa.errors import InputError
from cdvqa.hub import VOCABULARIES, WEIGHTS, find_locally
from cdvqa.runs.folder import network_file
from cdvqa.runs.lineage import find_parent
from cdvqa.sparsity import NetworkFile
from cdvqa.stages import VQAStage
from cdvqa.stages.compatibility import check_width, check_word_pieces, needs_question_types, read_metadata
from cdvqa.stages.features import differences
from cdvqa.tools.check import Item, Report

if TYPE_CHECKING:
    from cdvqa.cli.inspect import ConfigInspector

FEATURES = (
    "trainval2014_36 of the bottom-up-attention project, obj36 of the LXMERT project, or any other input of "
    "`cdvqa prepare features --input FILE --output {}`"
)
IMAGES = "train2014 and val2014 of COCO, or your own images: a folder given with --data.images FOLDER"
EXTRA_TEXT = "the processed VQA v2 files of the mPLUG project, in one JSON list"
OWN_QUESTIONS = "write it: a JSON list of {question_id, image_id, question}"
PIECES = "bert-base-uncased on Hugging Face: its vocab.txt, given with --data.tokenizer FILE"
GLOVE = "glove.6B of the GloVe project: its glove.6B.300d.txt, given with --model.backbone.glove FILE"
CHECKPOINT = "the checkpoint that the model's authors publish; give the file with --model.backbone.pretrained FILE"
CHECKPOINTS = (".pth", ".pt", ".bin", ".safetensors")  # a file of its own, and no folder or name on the hub
SLACK = 0.01  # detectors put boxes a pixel beyond the edge; boxes in pixels are off by far more


def check_visual(report: Report, data: VQADataModule, backbone: Backbone) -> dict[str, Any]:
    """The feature file or the folder of images; return its fingerprint, or nothing where it is of no use."""
    sees_images = backbone.image_format is not None
    path = data.images_folder if sees_images else data.features_file
    what, source = ("images", IMAGES) if sees_images else ("region features", FEATURES.format(path))
    item = Item(what, str(path), made_by(data.name, data.root) or source)
    report.items.append(item)
    part = path.with_name(f"{path.name}.part")
    if part.is_file():
        text = f"{part}: an unfinished conversion; the same `cdvqa prepare features` command resumes it"
        report.findings.append(("note", text))
    if not path.exists():
        return {}
    with report.reading(item):
        item.size = path.stat().st_size
        visual = data.visual
        shape = " x ".join(map(str, visual.image_shape))
        item.holds = f"{len(visual.image_id):,} images, {shape} {visual.dtype}"
        if isinstance(visual, ImageFolder):
            item.size = visual.bytes
            sample = visual.image_id[np.unique(np.linspace(0, len(visual) - 1, 8).astype(np.intp))]
            report.fits(f"{len(sample)} sampled images can be read", lambda: visual.read(sample))
        fingerprint = visual.fingerprint()
        item.digest = f"{fingerprint.get('sample_sha256') or fingerprint['ids_sha256']}*"
        item.holds += "; * SHA-256 of a sample"
        if not sees_images:
            report.fits(f"features are {visual.image_shape[-1]} wide", lambda: check_width(backbone, path, fingerprint))
            report.fits("boxes are shares of the image's width and height", lambda: check_boxes(fingerprint["boxes"]))
        return fingerprint
    return {}


def check_boxes(reach: Mapping[str, float]) -> None:
    """Raise InputError where boxes lie outside their images by more than a detector's rounding."""
    if reach["min"] < -SLACK or reach["max"] > 1 + SLACK:
        text = f"boxes reach from {reach['min']:.4g} to {reach['max']:.4g} of the image's width and height"
        raise InputError(f"{text}; they must be shares, not pixels")


def check_splits(report: Report, data: VQADataModule, stage: VQAStage) -> None:
    """Every file of questions and answers, and whether they fit each other, the config and the features."""
    data_set, root = data.data_set, data.root
    source, splits = made_by(data.name, root) or data_set.source, data_set.splits()
    vocabulary: set[str] = set()  # of train, which comes first
    for split in data_set.present(root) if root.is_dir() else splits:
        files = {"questions": splits[split].questions, "annotations": splits[split].annotations}
        problem = ""
        try:
            files = data_set.files(root, split)
        except InputError as error:  # cached targets without their vocabulary
            problem = str(error)
        paths = {role: find_file(root, name) or root / name for role, name in files.items()}
        items = [report.file(f"{split} {role}", path, source) for role, path in paths.items()]
        items[1].problem = items[1].problem or problem
        questions: Questions | None = None
        if all(item.state == "ok" for item in items):
            with report.reading(*items):
                questions = data_set.read(root, split, stage.protocol.soft_score)
                items[0].holds, items[1].holds = counts(questions), described(questions.annotations)
        for name, file in splits[split].lists.items():
            path = find_file(root, file) or root / file
            item = report.file(f"{name} questions", path, source)
            if item.state == "ok":
                with report.reading(item):
                    ids = data_set.read_list(path, split, questions.question_id if questions else None)
                    item.holds = f"{len(ids):,} questions"
        if questions is None:
            continue
        check_coverage(report, split, questions, data)
        if split == "train":
            vocabulary = check_vocabulary(report, questions, files, data)
        if "targets" not in files:
            answers = count_answers(questions.annotations)
            if vocabulary and answers:  # without train there is none
                known = sum(count for answer, count in answers.items() if answer in vocabulary) / sum(answers.values())
                items[1].holds += f"; {known:.1%} of the answers are in the vocabulary"
            continue
        text = f"{split}: cached targets stand in for the annotations; official accuracy will be a lower bound"
        report.findings.append(("note", text))
        typed = questions.annotations.question_type.names != [""]
        if split == "train" and not typed and needs_question_types(stage.objective):
            text = f"{split}: they name no question types, which --model.objective {stage.objective_name} needs"
            report.findings.append(("WRONG", text))


def check_vocabulary(report: Report, train: Questions, files: Mapping[str, str], data: VQADataModule) -> set[str]:
    """The answers of the train split, and whether they are as many as the config says."""
    if "answers" in files:
        answers = read_answers(data.root / files["answers"])
    else:
        answers = AnswerVocabulary.from_annotations(train.annotations, data.min_count).answers
    if answers:
        text = f"train has {len(answers):,} answers, as data.num_answers says"
        report.fits(text, lambda: data.check_num_answers(len(answers)))
    else:
        text = f"train has no answers with at least {data.min_count} questions; lower --data.min_count"
        report.findings.append(("WRONG", text))
    return set(answers)


def described(annotations: Annotations) -> str:
    """How many types of questions there are, and questions of each type of answer."""
    kinds, types = annotations.answer_type, f"{len(annotations.question_type.names)} question types"
    sizes = np.bincount(kinds.codes, minlength=len(kinds.names))
    numbers = ", ".join(f"{size:,} {name}" for name, size in zip(kinds.names, sizes, strict=True) if name)
    return f"{types}; {numbers}" if numbers else types


def check_own_questions(report: Report, data: VQADataModule) -> None:
    """Questions of one's own, which `predict` answers: they need no annotations and no other split."""
    file, readable = cast(Path, data.questions_file), report.items[0].state == "ok"
    item = report.file("own questions", file, OWN_QUESTIONS)
    if item.state == "ok":
        with report.reading(item):
            asked = read_own_questions(file, data.visual) if readable else read_plain_questions(file)
            item.holds = counts(asked)
            if readable:
                check_coverage(report, "own questions", asked, data)


def check_texts(report: Report, data: VQADataModule, backbone: Backbone) -> None:
    """The text behind the questions and the word pieces."""
    if data.extra_text_file:
        item = report.file("extra text", data.extra_text_file, EXTRA_TEXT)
        if item.state == "ok":
            with report.reading(item):
                item.holds = f"{len(ExtraText(data.extra_text_file)):,} questions"
    path = find_locally(data.tokenizer_source, VOCABULARIES)
    item = report.file("word pieces", path, PIECES, data.tokenizer_source)
    if path is not None and item.state == "ok":
        with report.reading(item):
            tokenizer = load_tokenizer(path)
            item.holds = f"{vocabulary_size(tokenizer):,} word pieces"
            check_word_pieces(backbone, tokenizer)


def check_start(report: Report, config: "ConfigInspector", fingerprint: Mapping[str, Any]) -> None:
    """The network that the stage starts from or answers with, or the published weights."""
    stage, data, given = config.model, config.datamodule, config.config_init["ckpt_path"]
    remedy = ""
    try:
        if given is not None:
            what = "network"
            path = config.existing_run().checkpoint if given == "last" else network_file(given, "--ckpt_path")
        elif data.questions_file is not None:
            what, remedy = "network", "train it, or name another with --ckpt_path"
            path = config.existing_run().result()
        elif stage.start is not None:
            what = "starting network"
            path = network_file(str(stage.start))
        elif stage.stage > 1:
            what = "parent run"
            path = find_parent(stage, config.runs, config.seed).path
        else:
            check_weights(report, stage.backbone, data)
            return
    except InputError as error:
        where, _, reason = str(error).partition(": ")
        report.items.append(Item(what, where, remedy or reason))
        return
    item = report.file(what, path, remedy or "run the stage that makes it again")
    if item.state != "ok":
        return
    with report.reading(item):
        if path.suffix == ".safetensors":
            NetworkFile(path).verify()
        metadata = read_metadata(path)
        item.holds = "+".join(metadata.get("pipeline", []))
        theirs = metadata.get("features") or {}
        found = [f"{name} {there} there and {here} here" for name, there, here in differences(theirs, fingerprint)]
        if found:
            raise InputError(f"{path}: trained on other region features: {', '.join(found)}")


def check_weights(report: Report, backbone: Backbone, data: VQADataModule) -> None:
    """Published weights and word vectors, where the backbone starts from them."""
    vectors, source = getattr(backbone, "glove", None), getattr(backbone, "pretrained", None)
    if vectors:
        report.file("word vectors", Path(vectors), GLOVE)
    if not source:
        return
    hub = f"{source} on Hugging Face: config.json and weights; give their folder with --model.backbone.pretrained"
    one_file = source.endswith(CHECKPOINTS)
    path = Path(source) if one_file else find_locally(source, WEIGHTS)
    embedded = made_by(Path(source).parent.name, Path(source).parent)
    item = report.file("pre-trained weights", path, embedded or (CHECKPOINT if one_file else hub), source)
    if path is None or item.state != "ok":
        return
    file = path if one_file else path.parent
    with report.reading(item):
        # Loading the file where it lies keeps the hub from being asked for a newer one.
        backbone.pretrained = str(file)  # type: ignore[assignment]
        item.holds = f"{backbone.load_pretrained()}".removeprefix(f"{file}: ")


def check_coverage(report: Report, split: str, asked: Questions | PlainQuestions, data: VQADataModule) -> None:
    """Whether every question's image is there, where the features or images can be read at all."""
    if report.items[0].state == "ok":
        text = f"{split}: every question's image has {data.visual.gives}"
        report.fits(text, lambda: data.visual.check_images(asked.image_id, asked.question_id), f"{split}: ")


def counts(asked: Questions | PlainQuestions) -> str:
    """The size of a question file."""
    return f"{len(asked.question_id):,} questions on {len(np.unique(asked.image_id)):,} images"
