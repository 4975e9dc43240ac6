"""Shares of zeros that follow from curves of the loss."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdvqa.sparsity import LXMERT_COUNTS, MODALITIES
from cdvqa.studies.search.curves import least_loss

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


@given(sizes=counts_and_overall, losses=st.lists(st.floats(0, 10), min_size=15, max_size=15))
def test_shares_of_curves_keep_the_budget(sizes: Any, losses: list[float]):
    numbers, overall = sizes
    counts = dict(zip(MODALITIES, numbers, strict=True))
    levels = [overall + step for step in (-0.2, -0.1, 0.0, 0.1, 0.2)]
    curves = {name: losses[5 * number : 5 * number + 5] for number, name in enumerate(MODALITIES)}
    shares = least_loss(levels, curves, overall, counts)
    assert zeros_of(shares, counts) == pytest.approx(overall * sum(numbers))
    assert all(overall - 0.2 - 1e-6 <= share <= overall + 0.2 + 1e-6 for share in shares.values())
