"""The real VQA-VS validation questions, in the place of Training and Val, from the official files to the metrics."""

import zipfile
from collections import Counter

import numpy as np
import orjson
import pytest

from cdvqa.data import VQADataModule, normalise_answer, write_features
from cdvqa.data.handshake import DataNeeds
from cdvqa.metrics import VQAAccuracy, vqa_accuracy
from cdvqa.presets import preset_protocol


@pytest.fixture(scope="module")
def data_and_annotations(shared, tmp_path_factory):
    root = tmp_path_factory.mktemp("vqavs")
    with zipfile.ZipFile(shared / "data/vqavs_val.zip") as archive:
        for kind in ("Ques", "Ans"):
            content = archive.read(f"Val/Val-{kind}.json")
            for split in ("Training", "Val"):
                (root / split).mkdir(exist_ok=True)
                (root / split / f"{split}-{kind}.json").write_bytes(content)
    annotations = orjson.loads(content)
    images = np.unique([annotation["image_id"] for annotation in annotations])
    n = len(images)
    write_features(
        root / "features.h5", np.ones((n, 1, 2), np.float32), np.ones((n, 1, 4)), images, np.ones((n, 2), int)
    )
    tokenizer = str(shared / "data/bert_base_uncased_vocab.txt")
    data = VQADataModule("vqavs", "vqavs", str(root), num_answers=327, tokenizer=tokenizer)
    data.needs = DataNeeds(preset_protocol("paper", stage=1))
    data.setup("fit")
    return data, annotations


def test_vocabulary(data_and_annotations):
    data, annotations = data_and_annotations
    counts = Counter(normalise_answer(annotation["multiple_choice_answer"]) for annotation in annotations)
    assert data.vocabulary.answers == [answer for answer, count in counts.items() if count >= 9]


def test_prior(data_and_annotations):
    data, annotations = data_and_annotations
    yes, three = data.vocabulary.index("yes"), data.vocabulary.index("3")
    for question_type, answer, column in (("is the", "yes", yes), ("how many", "3", three)):
        scores = [
            min(sum(human["answer"] == answer for human in annotation["answers"]) / 3, 1)
            for annotation in annotations
            if annotation["question_type"] == question_type
        ]
        assert data.prepared.prior.row(question_type)[column] == pytest.approx(np.mean(scores), rel=1e-6)
    prior = data.prepared.prior
    types = {annotation["question_type"] for annotation in annotations}
    assert prior.table.shape == (65, 327) and set(prior.question_types) == types


def test_batches_give_the_accuracy_of_always_answering_yes(data_and_annotations):
    data, annotations = data_and_annotations
    metric = VQAAccuracy(data.question_types, data.answer_types)
    yes = data.vocabulary.index("yes")
    for batch in data.val_dataloader()[0]:
        metric.update(batch.soft_target[:, yes], batch.question_type, batch.answer_type)
    result = metric.compute()
    expected = vqa_accuracy([{"question_id": a["question_id"], "answer": "yes"} for a in annotations], annotations)
    assert result["n"] == {"all": 32_723, "yes/no": 12_302, "number": 4_251, "other": 16_170}
    assert {group: result[group] for group in expected} == pytest.approx(expected, abs=1e-5)
    assert len(result["per_question_type"]) == 65
