"""The development split: its size, its shape, and what it depends on."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdvqa.data.datasets.dev_split import development_split
from cdvqa.data.questions.annotations import Annotations
from cdvqa.errors import InputError
from tests.data.toy import record


def skewed(n: int, types: int = 3, seed: int = 0, common: float = 0.9) -> Annotations:
    """Questions whose answer is "common" nine times in ten, and else one of nine rare ones."""
    rng = np.random.default_rng(seed)
    answers = ["common" if rng.random() < common else f"rare {rng.integers(9)}" for _ in range(n)]
    ids = rng.permutation(10 * n)[:n]
    pairs = zip(ids.tolist(), answers, strict=True)
    return Annotations.of([record(i, f"type {rng.integers(types)}", [answer]) for i, answer in pairs])


def of_each_pair(annotations: Annotations, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many questions of each (type, answer) there are, and how many are chosen."""
    answers = annotations.multiple_choice_answer
    _, pair = np.unique(annotations.question_type.codes * len(answers.names) + answers.codes, return_inverse=True)
    return np.bincount(pair), np.bincount(pair, weights=chosen)


@settings(max_examples=30)
@given(
    st.integers(40, 160),
    st.integers(0, 5),
    st.sampled_from(["ood", "iid"]),
    st.sampled_from([0.05, 0.1]),
    st.randoms(use_true_random=False),
)
def test_order_makes_no_difference_and_the_size_is_right(n, seed, kind, share, random):
    annotations = skewed(n, common=0.7)
    order = list(range(n))
    random.shuffle(order)
    shuffled = annotations.select(np.array(order))
    mask = development_split(annotations, kind, seed, share)
    again = shuffled.question_id[development_split(shuffled, kind, seed, share)]
    assert set(annotations.question_id[mask]) == set(again)
    assert mask.sum() == int(share * n + 0.5)


@settings(max_examples=30)
@given(st.integers(1, 300), st.integers(1, 4), st.integers(0, 5), st.floats(0, 1), st.sampled_from([0.05, 0.2, 0.9]))
def test_at_most_a_quarter_of_the_questions_of_any_type_and_answer_is_taken(n, types, seed, common, share):
    """The old split took 31 % of the questions with rare answers on `scenes`, and all of those with unique ones."""
    annotations = skewed(n, types, seed, common)
    try:
        chosen = development_split(annotations, "ood", seed, share)
    except InputError as error:
        assert "too few for a development split" in str(error)
        return
    there, taken = of_each_pair(annotations, chosen)
    assert (taken <= there // 4).all()
    # As many as asked for, unless the quarter of every answer of a type is used up.
    for code in range(len(annotations.question_type.names)):
        of_type = annotations.question_type.codes == code
        room = np.sum(of_each_pair(annotations, of_type)[1].astype(int) // 4)
        assert chosen[of_type].sum() >= min(room, int(share * of_type.sum()))


@pytest.mark.parametrize("kind", ["ood", "iid"])
def test_each_type_gives_its_share_and_the_seed_matters(kind):
    annotations = skewed(4000)
    chosen = development_split(annotations, kind)
    types = annotations.question_type
    of_each = np.bincount(types.codes[chosen]) / np.bincount(types.codes)
    np.testing.assert_allclose(of_each, 0.05, atol=1e-3)
    assert (chosen != development_split(annotations, kind, seed=1)).any()


def test_ood_evens_out_the_answers_that_have_room_and_iid_keeps_them():
    annotations = skewed(20_000, types=1, common=0.5)
    common = annotations.multiple_choice_answer.codes == annotations.multiple_choice_answer.names.index("common")
    assert common[development_split(annotations, "iid")].mean() == pytest.approx(0.5, abs=0.05)
    _, taken = of_each_pair(annotations, development_split(annotations, "ood"))
    np.testing.assert_allclose(taken / taken.sum(), 0.1, atol=0.03)  # ten answers, none of which reaches its quarter


def test_ood_inclusion_probabilities_are_those_of_a_weighted_draw():
    """One of twelve questions, eight with one answer and four with another: each answer in half of all seeds."""
    annotations = Annotations.of([record(i, "t", ["a" if i < 8 else "b"]) for i in range(12)])
    share = np.mean([development_split(annotations, "ood", seed) for seed in range(2000)], axis=0)
    np.testing.assert_allclose(share, [1 / 16] * 8 + [1 / 8] * 4, atol=0.025)


@pytest.mark.parametrize("kind", ["ood", "iid"])
def test_too_few_questions_are_named(kind):
    """One training question was held out whole, and the error came from an empty loader."""
    with pytest.raises(InputError, match=r"dev_share 0\.05: 1 training questions are too few .*--data\.dev_share 0 "):
        development_split(skewed(1), kind)
