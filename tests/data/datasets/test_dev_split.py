"""The development split: its size, its shape, and what it depends on."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdvqa.data.datasets.dev_split import development_split
from cdvqa.data.questions.annotations import Annotations
from tests.data.toy import record


def skewed(n: int, types: int = 3, seed: int = 0) -> Annotations:
    """Questions whose answer is "common" nine times in ten, and else one of nine rare ones."""
    rng = np.random.default_rng(seed)
    answers = ["common" if rng.random() < 0.9 else f"rare {rng.integers(9)}" for _ in range(n)]
    ids = rng.permutation(10 * n)[:n]
    pairs = zip(ids.tolist(), answers, strict=True)
    return Annotations.of([record(i, f"type {rng.integers(types)}", [answer]) for i, answer in pairs])


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 120), st.integers(0, 5), st.sampled_from(["ood", "iid"]), st.randoms(use_true_random=False))
def test_order_makes_no_difference_and_the_size_is_exact(n, seed, kind, random):
    annotations = skewed(n)
    order = list(range(n))
    random.shuffle(order)
    shuffled = annotations.select(np.array(order))
    chosen = annotations.question_id[development_split(annotations, kind, seed)]
    again = shuffled.question_id[development_split(shuffled, kind, seed)]
    assert set(chosen) == set(again)
    assert len(chosen) == max(int(0.05 * n + 0.5), 1)


@pytest.mark.parametrize("kind", ["ood", "iid"])
def test_each_type_gives_its_share_and_the_seed_matters(kind):
    annotations = skewed(4000)
    chosen = development_split(annotations, kind)
    types = annotations.question_type
    of_each = np.bincount(types.codes[chosen]) / np.bincount(types.codes)
    np.testing.assert_allclose(of_each, 0.05, atol=1e-3)
    assert (chosen != development_split(annotations, kind, seed=1)).any()


def test_ood_evens_out_the_answers_and_iid_keeps_them():
    annotations = skewed(4000)
    common = annotations.multiple_choice_answer.codes == annotations.multiple_choice_answer.names.index("common")
    assert common[development_split(annotations, "iid")].mean() > 0.8
    ood = development_split(annotations, "ood")
    assert common[ood].mean() < 0.2  # one of ten answers
    assert common.mean() > 0.85  # while it leads the whole


def test_ood_inclusion_probabilities_are_those_of_a_weighted_draw():
    """One of three questions, weights 1/2, 1/2 and 1: drawn in a quarter, a quarter and a half of all seeds."""
    annotations = Annotations.of([record(1, "t", ["a"]), record(2, "t", ["a"]), record(3, "t", ["b"])])
    share = np.mean([development_split(annotations, "ood", seed) for seed in range(2000)], axis=0)
    np.testing.assert_allclose(share, [0.25, 0.25, 0.5], atol=0.04)
