"""Normalisation, soft scores, the vocabulary, soft targets and priors, against the authors' own functions."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdvqa.data.answers.normalisation import normalise_answer, strip_punctuation
from cdvqa.data.answers.prior import QuestionTypePrior
from cdvqa.data.answers.targets import SoftTargets
from cdvqa.data.answers.vocabulary import AnswerVocabulary, soft_scores
from cdvqa.data.questions.annotations import Annotations
from cdvqa.errors import InputError
from tests.data.toy import record


def test_normalisation_equals_the_evaluation_code(golden):
    arrays = {key: json.loads(str(value)) for key, value in golden("answer_normalisation").items()}
    assert [normalise_answer(raw) for raw in arrays["raw"]] == arrays["normalised"]
    assert [strip_punctuation(raw) for raw in arrays["raw"]] == arrays["after_punctuation"]


def test_only_the_first_32_periods_are_removed():
    assert normalise_answer("." * 40) == "." * 8


@pytest.mark.parametrize(
    ("raw", "normalised"),
    [("Hadnt've", "hadn't've"), ("mightn'tve", "mightn't've"), ("yalld've", "yalld've"), ("somebody'd", "somebodyd")],
)
def test_contractions_of_the_evaluation_code(raw, normalised):
    assert normalise_answer(raw) == normalised


@pytest.mark.parametrize("rule", ["third", "clark"])
def test_soft_scores(golden, rule):
    np.testing.assert_allclose(soft_scores(range(11), rule), golden("targets_and_prior")[f"score_{rule}"], rtol=1e-12)


def test_unknown_soft_score_is_refused():
    with pytest.raises(InputError, match="'half' is unknown"):
        soft_scores([1], "half")


@pytest.fixture
def toy(golden):
    return golden("targets_and_prior")


@pytest.mark.parametrize("min_count", [1, 3, 5, 9])
def test_vocabulary_equals_the_authors(toy, min_count):
    vocabulary = AnswerVocabulary.from_annotations(json.loads(str(toy["annotations"])), min_count)
    assert vocabulary.answers == json.loads(str(toy[f"occurrence_min{min_count}"]))


@pytest.mark.parametrize("rule", ["third", "clark"])
def test_targets_labels_and_priors_equal_the_authors(toy, rule):
    annotations = json.loads(str(toy["annotations"]))
    vocabulary = AnswerVocabulary(json.loads(str(toy["vocabulary"])))
    targets = SoftTargets.from_annotations(annotations, vocabulary, rule)
    np.testing.assert_array_equal(targets.dense(np.arange(60)), toy[f"target_{rule}"])
    np.testing.assert_array_equal(targets.best_label, toy[f"max_label_{rule}"])
    np.testing.assert_array_equal(targets.best_label >= 0, toy["has_in_vocab_answer"])

    prior = QuestionTypePrior.from_annotations(annotations, vocabulary, rule)
    rows = prior.rows(json.loads(str(toy["question_types"])))
    np.testing.assert_allclose(rows, toy[f"p_b_{rule}"], atol=1e-6)
    np.testing.assert_allclose(rows, toy[f"p_b_{rule}_f64"], atol=1e-7)


def test_targets_of_any_rows_in_any_order(toy):
    vocabulary = AnswerVocabulary(json.loads(str(toy["vocabulary"])))
    targets = SoftTargets.from_annotations(json.loads(str(toy["annotations"])), vocabulary)
    rows = np.array([59, 3, 3, 0])
    np.testing.assert_array_equal(targets.dense(rows), toy["target_third"][rows])


def test_normalised_prior_rows_sum_to_one_and_unknown_types_are_zero():
    annotations = [record(1, "is the", ["yes"] * 5 + ["no"] * 5), record(2, "what", ["unknown"] * 10)]
    prior = QuestionTypePrior.from_annotations(annotations, AnswerVocabulary(["yes", "no"]), normalise=True)
    np.testing.assert_array_equal(prior.row("is the"), [0.5, 0.5])
    np.testing.assert_array_equal(prior.row("what"), [0, 0])
    np.testing.assert_array_equal(prior.row("never seen"), [0, 0])
    assert prior.table.dtype == np.float32 and prior.question_types == ["is the", "what"]


def test_human_answers_are_matched_raw_and_the_chosen_one_normalised():
    vocabulary = AnswerVocabulary.from_annotations([record(1, "is the", ["The Yes."] * 10)], min_count=1)
    assert vocabulary.answers == ["yes"]
    targets = SoftTargets.from_annotations([record(2, "is the", ["Yes"] * 4 + ["yes"])], vocabulary)
    np.testing.assert_allclose(targets.dense(np.array([0])), [[1 / 3]], rtol=1e-6)


@given(st.lists(st.sampled_from(["yes", "Yes.", "no", "a dog", "dog", "two", "2"]), max_size=60), st.integers(1, 9))
def test_vocabulary_counts_questions_in_order_of_appearance(answers, min_count):
    vocabulary = AnswerVocabulary.from_annotations([record(i, "t", [a]) for i, a in enumerate(answers)], min_count)
    normalised = [normalise_answer(answer) for answer in answers]
    assert vocabulary.answers == [a for a in dict.fromkeys(normalised) if normalised.count(a) >= min_count]
    assert [vocabulary.index(answer) for answer in vocabulary.answers] == list(range(len(vocabulary)))
    assert vocabulary.index("not there") == -1 and "not there" not in vocabulary


def test_duplicate_answers_are_named():
    with pytest.raises(InputError, match="duplicate answer 'yes'"):
        AnswerVocabulary(["yes", "no", "yes"])


def test_selecting_rows_keeps_their_content_and_drops_unused_names():
    records = [record(i, f"type {i % 4}", [f"answer {i % 3}", "x"], f"kind {i % 2}") for i in range(10)]
    chosen = np.array([7, 2, 3])
    columns = Annotations.of(records).select(chosen)
    assert columns.question_type.names == ["type 3", "type 2"]
    for row, source in enumerate(chosen):
        assert columns.question_id[row] == records[source]["question_id"]
        assert columns.question_type[row] == records[source]["question_type"]
        assert columns.multiple_choice_answer[row] == records[source]["multiple_choice_answer"]
        assert columns.answers[row] == [answer["answer"] for answer in records[source]["answers"]]
