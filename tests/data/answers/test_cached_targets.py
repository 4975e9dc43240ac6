"""Cached targets in place of annotations."""

import pickle
from dataclasses import replace

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdvqa.data.answers.cached_targets import (
    UNKNOWN,
    answer_type,
    read_answers,
    read_targets,
)
from cdvqa.data.answers.targets import SoftTargets
from cdvqa.data.answers.vocabulary import AnswerVocabulary
from cdvqa.data.datasets import VQACP, make_data_set
from cdvqa.data.prepared import PreparedQuestions
from cdvqa.errors import InputError
from cdvqa.metrics import official_vqa_score
from cdvqa.presets import preset_protocol
from tests.data.toy import write_toy

ANSWERS = ["yes", "no", "2", "red", "blue"]
SCORES = {"third": [0, 1 / 3, 2 / 3, 1], "clark": [0, 0.3, 0.6, 0.9, 1]}


def target(question_id, counts, rule="third", **more):
    """A record as bottom-up-attention-vqa's compute_softscore.py makes it of {label: human answers}."""
    scores = [SCORES[rule][min(count, len(SCORES[rule]) - 1)] for count in counts.values()]
    return {"question_id": question_id, "image_id": 1, "labels": list(counts), "scores": scores} | more


def write(path, content):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol=2))
    return path


COUNTS = st.dictionaries(st.integers(0, 4), st.integers(1, 10), max_size=4).filter(lambda c: sum(c.values()) <= 10)


@given(st.lists(COUNTS, min_size=1, max_size=8), st.sampled_from(["third", "clark"]))
def test_any_targets_come_back(tmp_path_factory, questions, rule):
    records = [target(number, counts, rule) for number, counts in enumerate(questions)]
    path = write(tmp_path_factory.mktemp("cached") / "train_target.pkl", records)
    annotations = read_targets(path, ANSWERS, rule)
    targets = SoftTargets.from_annotations(annotations, AnswerVocabulary(ANSWERS), rule)
    expected = np.zeros((len(records), 5), np.float32)
    for row, record in enumerate(records):
        expected[row, record["labels"]] = record["scores"]
    np.testing.assert_array_equal(targets.dense(np.arange(len(records))), expected)
    for row, record in enumerate(records):
        best = record["labels"][int(np.argmax(record["scores"]))] if record["labels"] else None
        assert targets.best_label[row] == (-1 if best is None else best)
        assert annotations.multiple_choice_answer[row] == (UNKNOWN if best is None else ANSWERS[best])
        humans = annotations.answers[row]
        assert len(humans) == 10
        for label, count in questions[row].items():  # the official accuracy of the true ten answers is never exceeded
            true = [ANSWERS[label]] * count + ["something else"] * (10 - count)
            score, bound = official_vqa_score(ANSWERS[label], humans), official_vqa_score(ANSWERS[label], true)
            assert score <= bound + 1e-9 and (count > 2 or score == pytest.approx(bound))


def test_question_types_are_taken_where_they_are(tmp_path):
    typed = [target(1, {0: 3}, question_type="is the"), target(2, {}, question_type="what")]
    assert read_targets(write(tmp_path / "a.pkl", typed), ANSWERS, "third").question_type.names == ["is the", "what"]
    untyped = read_targets(write(tmp_path / "b.pkl", [target(1, {0: 3})]), ANSWERS, "third")
    assert untyped.question_type.names == [""]
    typed[1].pop("question_type")
    with pytest.raises(InputError, match=r"record 1 \(question 2\) has no 'question_type'"):
        read_targets(write(tmp_path / "c.pkl", typed), ANSWERS, "third")


@pytest.mark.parametrize(("answer", "kind"), [("no", "yes/no"), ("12", "number"), ("red", "other"), ("", "other")])
def test_answer_types(answer, kind):
    assert answer_type(answer) == kind


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": 1}, "holds no list of targets"),
        ([], "holds no list of targets"),
        ([target(1, {0: 1}), {"question_id": 2, "labels": []}], r"record 1 \(question 2\) has no 'scores'"),
        ([target(7, {0: 1}) | {"scores": []}], r"record 0 \(question 7\): 1 labels but 0 scores"),
        ([target(7, {9: 1})], r"question 7\): labels \[9\] are not all in the vocabulary of 5 answers"),
        ([target(7, {-1: 1})], r"labels \[-1\] are not all in the vocabulary"),
        ([target(7, {0: 1}) | {"scores": ["x"]}], "a score is not a number"),
        ([target(7, {0: 1}) | {"scores": [float("nan")]}], "score nan, which"),
        ([target(7, {0: 2}, "clark")], r"score 0\.6, which soft score 'third' does not give; .*soft_score clark"),
        ([target(7, {0: 3, 1: 3, 2: 3, 3: 3})], "need more than ten human answers"),
        ([target(7, {}), target(7, {})], "duplicate question 7"),
        ([1], "record 0 is not a"),
    ],
)
def test_wrong_targets_are_named(tmp_path, content, message):
    path = write(tmp_path / "train_target.pkl", content)
    with pytest.raises(InputError, match=f"train_target.pkl: (record .*)?{message}"):
        read_targets(path, ANSWERS, "third")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"yes": 0, "no": 2}, "its 2 answers do not have the labels 0 to 1"),
        ({"yes": 0, "no": 0}, "its 2 answers do not have the labels 0 to 1"),
        ({0: 0}, "neither a dictionary from answers to labels nor a list of answers"),
        ([], "neither a dictionary"),
        ("yes", "neither a dictionary"),
    ],
)
def test_wrong_vocabularies_are_named(tmp_path, content, message):
    with pytest.raises(InputError, match=f"ans2label.pkl: {message}"):
        read_answers(write(tmp_path / "ans2label.pkl", content))


def test_answers_are_in_the_order_of_their_labels(tmp_path):
    assert read_answers(write(tmp_path / "a.pkl", {"no": 1, "yes": 0})) == ["yes", "no"]
    assert read_answers(write(tmp_path / "b.pkl", ["yes", "no"])) == ["yes", "no"]


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    class Harm:
        def __reduce__(self):
            return (eval, ("open('harm', 'w')",))

    with pytest.raises(InputError, match=r"train_target\.pkl"):
        read_targets(write(tmp_path / "train_target.pkl", Harm()), ANSWERS, "third")


@pytest.mark.parametrize(
    ("layout", "split", "name"),
    [("vqacp", "train", "train"), ("vqavs", "dev", "val"), ("vqavs", "iid", "test"), ("vqa2", "test", "val")],
)
@pytest.mark.parametrize("vocabulary", ["trainval_ans2label", "train_test_label2ans", "train_val_test_ans2label"])
def test_files_are_found_by_split(tmp_path, layout, split, name, vocabulary):
    data_set = make_data_set(layout)
    official = data_set.splits()[split]
    assert data_set.files(tmp_path, split) == {"questions": official.questions, "annotations": official.annotations}
    write(tmp_path / f"cache/{name}_target.pkl", [])
    with pytest.raises(InputError, match=rf"{name}_target\.pkl: no vocabulary beside it; add .*ans2label"):
        data_set.files(tmp_path, split)
    write(tmp_path / f"cache/{vocabulary}.pkl", [])
    targets = {"targets": f"cache/{name}_target.pkl", "answers": f"cache/{vocabulary}.pkl"}
    assert data_set.files(tmp_path, split) == {"questions": official.questions} | targets


def replace_annotations(root, rule="third", typed=True, splits=("train", "test")):
    """Put in the annotations' place the cache that the authors' scripts would make of them; return its answers."""

    def load(split):
        return orjson.loads((root / f"vqacp_v2_{split}_annotations.json").read_bytes())

    answers = list(dict.fromkeys(annotation["multiple_choice_answer"] for annotation in load("train")))[::-1]
    for split in splits:
        records = []
        for annotation in load(split):
            humans = [answer["answer"] for answer in annotation["answers"]]
            counts = {answers.index(answer): humans.count(answer) for answer in humans if answer in answers}
            more = {"question_type": annotation["question_type"]} if typed else {}
            records.append(target(annotation["question_id"], counts, rule, **more))
        write(root / f"cache/{split}_target.pkl", records)
        (root / f"vqacp_v2_{split}_annotations.json").unlink()
    write(root / "cache/trainval_ans2label.pkl", {answer: label for label, answer in enumerate(answers)})
    return answers


def prepare(root, rule="third"):
    protocol = replace(preset_protocol("paper", 1), soft_score=rule, selection="test", dev_share=0.0)
    return PreparedQuestions(VQACP(), root, str(root / "vocab.txt"), 1, "ood", 0, protocol)


@pytest.mark.parametrize("rule", ["third", "clark"])
@pytest.mark.parametrize("splits", [("train", "test"), ("test",)])
def test_training_gets_the_same_from_either(tmp_path, rule, splits):
    official = prepare(write_toy(tmp_path / "official"), rule)
    cached_root = write_toy(tmp_path / "cached")
    answers = replace_annotations(cached_root, rule, splits=splits)
    cached = prepare(cached_root, rule)
    assert cached.vocabulary.answers == (answers if "train" in splits else official.vocabulary.answers)
    order = [official.vocabulary.index(answer) for answer in cached.vocabulary.answers]
    for split in ("train", "test"):
        if split in splits:
            with pytest.warns(UserWarning, match=f"{split}_annotations.json is not there; cache/{split}_target.pkl"):
                got = cached.split(split)
        else:
            got = cached.split(split)
        expected = official.split(split)
        rows = np.arange(len(expected.questions))
        assert got.questions.text == expected.questions.text
        np.testing.assert_array_equal(got.tokens.ids, expected.tokens.ids)
        np.testing.assert_array_equal(got.targets.dense(rows), expected.targets.dense(rows)[:, order])
    np.testing.assert_allclose(cached.prior.table, official.prior.table[:, order], rtol=1e-6)
    assert cached.question_types_known and "cache/test_target.pkl" in cached.digests


def test_without_question_types_the_prior_is_one_row_and_says_so(tmp_path):
    replace_annotations(write_toy(tmp_path), typed=False)
    prepared = prepare(tmp_path)
    assert prepared.prior.question_types == [""] and not prepared.question_types_known


def test_annotations_win_over_a_cache(tmp_path, recwarn):
    write_toy(tmp_path)
    write(tmp_path / "cache/train_target.pkl", "never read")
    assert len(prepare(tmp_path).split("train").questions) == 60 and not recwarn.list


def test_questions_must_be_those_of_the_cache(tmp_path):
    replace_annotations(write_toy(tmp_path))
    records = pickle.loads((tmp_path / "cache/train_target.pkl").read_bytes())
    write(tmp_path / "cache/train_target.pkl", records[1:])
    with pytest.raises(InputError, match=r"train_questions\.json: question 1000 is not in .*train_target\.pkl"):
        prepare(tmp_path).split("train")


def test_a_changed_cache_is_read_again(tmp_path):
    answers = replace_annotations(write_toy(tmp_path))
    before = prepare(tmp_path).vocabulary.answers
    write(tmp_path / "cache/trainval_ans2label.pkl", {answer: label for label, answer in enumerate(answers[::-1])})
    assert prepare(tmp_path).vocabulary.answers == before[::-1]
