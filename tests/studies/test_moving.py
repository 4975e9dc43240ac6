"""Shares of zeros that follow from losses and gradients."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdvqa.sparsity import LXMERT_COUNTS, MODALITIES
from cdvqa.studies.search.moving import in_proportion, least_loss, moved

LEVELS = (0.3, 0.4, 0.5, 0.6, 0.7)
counts_and_overall = st.tuples(st.tuples(*[st.integers(1_000, 100_000)] * 3), st.floats(0.25, 0.75))


def zeros_of(shares: Any, counts: Any) -> float:
    return sum(shares[name] * counts[name] for name in counts)


def test_equal_curves_stay_uniform_and_a_steep_one_keeps_more():
    line = [0.3, 0.4, 0.5, 0.6, 0.7]
    # Per weight the loss is the same everywhere, so nothing is gained by moving.
    alike = {name: [LXMERT_COUNTS[name] * level for level in line] for name in MODALITIES}
    assert least_loss(LEVELS, alike, 0.5, LXMERT_COUNTS) == pytest.approx(dict.fromkeys(MODALITIES, 0.5))
    steep = least_loss(LEVELS, alike | {"vision": [10e8 * level for level in line]}, 0.5, LXMERT_COUNTS)
    assert steep["vision"] == pytest.approx(0.3)
    assert zeros_of(steep, LXMERT_COUNTS) == pytest.approx(0.5 * sum(LXMERT_COUNTS.values()))


def test_a_loss_that_falls_with_more_zeros_is_noise():
    flat = {name: [1.0, 1.0, 1.0, 1.0, 1.0] for name in MODALITIES}
    noisy = flat | {"vision": [1.2, 0.9, 1.0, 0.9, 1.0]}
    assert least_loss(LEVELS, noisy, 0.5, LXMERT_COUNTS) == pytest.approx(dict.fromkeys(MODALITIES, 0.5), abs=0.011)


@settings(deadline=None)
@given(sizes=counts_and_overall, losses=st.lists(st.floats(0, 10), min_size=15, max_size=15))
def test_shares_of_curves_keep_the_budget(sizes: Any, losses: list[float]):
    numbers, overall = sizes
    counts = dict(zip(MODALITIES, numbers, strict=True))
    levels = [overall + step for step in (-0.2, -0.1, 0.0, 0.1, 0.2)]
    curves = {name: losses[5 * number : 5 * number + 5] for number, name in enumerate(MODALITIES)}
    shares = least_loss(levels, curves, overall, counts)
    assert zeros_of(shares, counts) == pytest.approx(overall * sum(numbers))
    assert all(overall - 0.2 - 1e-6 <= share <= overall + 0.2 + 1e-6 for share in shares.values())


@given(sizes=counts_and_overall, scores=st.tuples(*[st.floats(0, 1e6)] * 3))
def test_shares_in_proportion_keep_the_budget(sizes: Any, scores: Any):
    numbers, overall = sizes
    counts = dict(zip(MODALITIES, numbers, strict=True))
    shares = in_proportion(dict(zip(MODALITIES, scores, strict=True)), overall, counts)
    assert zeros_of(shares, counts) == pytest.approx(overall * sum(numbers), rel=1e-6)
    assert all(-1e-9 <= share <= min(0.95, overall + 0.2) + 1e-9 for share in shares.values())


def test_shares_in_proportion_by_hand():
    counts = {"language": 100, "vision": 100, "cross": 100}
    # Each keeps 30 of 100; 60 more are kept by the scores, of which language can take 70 at most.
    assert in_proportion({"language": 3, "vision": 2, "cross": 1}, 0.5, counts) == pytest.approx(
        {"language": 0.4, "vision": 0.5, "cross": 0.6}
    )
    # At 20 % zeros 60 are kept by all, and 60 more by the scores: language is full after 40.
    assert in_proportion({"language": 8, "vision": 1, "cross": 1}, 0.2, counts) == pytest.approx(
        {"language": 0.0, "vision": 0.3, "cross": 0.3}
    )


def test_zeros_move_to_where_a_weight_saves_least():
    counts = {"language": 1000, "vision": 500, "cross": 1000}
    shares = dict.fromkeys(MODALITIES, 0.5)
    saved = {
        "language": np.array([0.1, 0.2, 0.1]),
        "vision": np.array([1.0, 1.1, 1.2]),
        "cross": np.array([0.5, 0.4, 0.5]),
    }
    after = moved(shares, saved, 50, 0.5, counts)
    assert after == pytest.approx({"language": 0.55, "vision": 0.4, "cross": 0.5})
    assert moved(shares, dict.fromkeys(MODALITIES, saved["cross"]), 50, 0.5, counts) == shares, "equal prices"
    noise = {"language": np.array([0.0, 1.0, 0.0]), "vision": np.array([1.0, 0.0, 0.4]), "cross": np.zeros(3) + 0.4}
    assert moved(shares, noise, 50, 0.5, counts) == shares, "they cannot be told apart"


@given(sizes=counts_and_overall, seed=st.integers(0, 99))
def test_a_modality_of_noise_loses_its_weights_to_the_limit_and_the_budget_holds(sizes: Any, seed: int):
    numbers, overall = sizes
    counts = dict(zip(MODALITIES, numbers, strict=True))
    shares, rng = dict.fromkeys(MODALITIES, overall), np.random.default_rng(seed)
    for _ in range(300):
        saved = {name: rng.normal(float(name != "vision"), 1e-3, 4) for name in MODALITIES}
        shares = moved(shares, saved, max(sum(numbers) // 100, 1), overall, counts)
        assert zeros_of(shares, counts) == pytest.approx(overall * sum(numbers))
        assert all(overall - 0.2 - 1e-9 <= share <= overall + 0.2 + 1e-9 for share in shares.values())
    room = min(0.2 * counts["vision"], 0.2 * (counts["language"] + counts["cross"])) / counts["vision"]
    assert shares["vision"] == pytest.approx(overall + room, abs=0.01)
