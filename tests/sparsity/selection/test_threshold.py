"""Threshold selection against the authors' numbers (strict) and against a full sort (exact)."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cdvqa.errors import InputError
from cdvqa.sparsity import (
    count_zeros,
    magnitude_scores,
    select_global_threshold,
    select_threshold,
)
from tests.sparsity.reference import sorted_masks, zeros_asked

SPARSITIES = ["0", "0.1", "0.3", "0.5", "0.7", "0.9", "0.98", "1"]


# The authors' numbers


@pytest.mark.parametrize("matrix", ["linear", "embedding", "ties"])
@pytest.mark.parametrize("percent", [10, 30, 50, 70, 90])
def test_strict_initialisation_is_the_authors(golden, matrix, percent):
    arrays = golden("mask_init")
    weight = torch.from_numpy(arrays[f"W_{matrix}"])
    assert count_zeros(percent / 100, weight.numel(), "strict") == arrays[f"{matrix}_s{percent}_k"]
    scores = magnitude_scores(weight, percent / 100, tie_break="strict")
    assert scores.dtype == torch.float32
    np.testing.assert_array_equal(scores.numpy(), arrays[f"{matrix}_s{percent}_mhat"])
    np.testing.assert_array_equal((scores > 0.01).numpy(), arrays[f"{matrix}_s{percent}_mask"].astype(bool))
    selection = select_threshold(weight.abs(), percent / 100, tie_break="strict")
    assert selection.threshold == arrays[f"{matrix}_s{percent}_kth_abs"]


@pytest.mark.parametrize("percent", [50, 70])
def test_strict_global_initialisation_is_the_authors(golden, percent):
    arrays = golden("mask_init")
    sizes = [torch.from_numpy(arrays[f"global_W_{name}"]).abs() for name in "abc"]
    selection = select_global_threshold(sizes, percent / 100, tie_break="strict")
    assert selection.threshold == arrays[f"global_s{percent}_threshold"]
    for mask, name in zip(selection.mask, "abc", strict=True):
        np.testing.assert_array_equal(mask.numpy(), arrays[f"global_s{percent}_mhat_{name}"] > 0.01)


@pytest.mark.parametrize("case", range(4))
def test_strict_reset_is_the_authors(golden, case):
    arrays = golden("mask_threshold")
    language, vision = arrays[f"c{case}_sparsity"]
    thresholds = []
    for matrix, sparsity in (("lang", language), ("vis", vision), ("emb", language)):
        key = f"c{case}_{matrix}"
        scores = torch.from_numpy(arrays[f"{key}_mhat"])
        assert count_zeros(sparsity, scores.numel(), "strict", reset=True) == arrays[f"{key}_k"]
        selection = select_threshold(scores, sparsity, tie_break="strict")
        assert selection.threshold == arrays[f"{key}_threshold"]
        np.testing.assert_array_equal(selection.mask.numpy(), arrays[f"{key}_mask"].astype(bool))
        thresholds.append(selection.threshold)
    assert np.mean(thresholds) == pytest.approx(arrays[f"c{case}_mean_threshold"], rel=1e-6)


def test_strict_overshoots_in_a_tie_and_exact_does_not(golden):
    arrays = golden("mask_threshold")
    scores = torch.from_numpy(arrays["tie_mhat"])
    strict = select_threshold(scores, float(arrays["tie_sparsity"]), tie_break="strict")
    assert strict.threshold == arrays["tie_threshold"]
    np.testing.assert_array_equal(strict.mask.numpy(), arrays["tie_mask"].astype(bool))
    assert (~strict.mask).float().mean() == pytest.approx(0.95)
    exact = select_threshold(scores, 0.5)
    assert exact.threshold == strict.threshold
    assert int((~exact.mask).sum()) == 20


def test_strict_global_reset_is_the_authors(golden):
    arrays = golden("mask_threshold")
    names = ("lang", "vis", "emb")
    scores = [torch.from_numpy(arrays[f"global_{name}_mhat"]) for name in names]
    selection = select_global_threshold(scores, float(arrays["global_sparsity"]), tie_break="strict")
    assert selection.threshold == arrays["global_threshold"]
    for mask, name in zip(selection.mask, names, strict=True):
        np.testing.assert_array_equal(mask.numpy(), arrays[f"global_{name}_mask"].astype(bool))


# Exactness


@st.composite
def matrices(draw):
    """One to four matrices of scores and weights, most of them full of ties."""
    scores, weights = [], []
    for _ in range(draw(st.integers(1, 4))):
        shape = (draw(st.integers(1, 7)), draw(st.integers(1, 9)))
        generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
        score_levels = torch.tensor(draw(st.sampled_from([[0.02], [0.0, 0.02], [-0.0, 0.0, -0.01, 0.01]])))
        weight_levels = torch.tensor(draw(st.sampled_from([[1.0], [0.5, -0.5], [-2.0, -1.0, 0.0, 1.0, 2.0]])))
        score = score_levels[torch.randint(len(score_levels), shape, generator=generator)]
        spread = torch.rand(shape, generator=generator) < draw(st.sampled_from([0.0, 0.5, 1.0]))
        scores.append(torch.where(spread, torch.randn(shape, generator=generator), score))
        weights.append(weight_levels[torch.randint(len(weight_levels), shape, generator=generator)])
    return scores, weights


@settings(max_examples=200)
@given(matrices(), st.sampled_from(SPARSITIES))
def test_exact_selection_is_a_full_sort(given_matrices, sparsity):
    scores, weights = given_matrices
    asked = zeros_asked(sparsity, sum(score.numel() for score in scores))
    selection = select_global_threshold(scores, float(sparsity), weights)
    assert sum(int((~mask).sum()) for mask in selection.mask) == asked
    for mask, expected in zip(selection.mask, sorted_masks(scores, weights, asked), strict=True):
        assert torch.equal(mask, expected)
    for score, weight in zip(scores, weights, strict=True):
        asked = zeros_asked(sparsity, score.numel())
        single = select_threshold(score, float(sparsity), weight)
        assert torch.equal(single.mask, sorted_masks([score], [weight], asked)[0])
        by_index = select_threshold(score, float(sparsity))
        assert torch.equal(by_index.mask, sorted_masks([score], [torch.zeros_like(score)], asked)[0])


@settings(max_examples=100)
@given(matrices(), st.sampled_from(SPARSITIES), st.integers(0, 2**31))
def test_rules_decide_moved_scores_against_the_last_zero(given_matrices, sparsity, seed):
    scores, weights = given_matrices
    total = sum(score.numel() for score in scores)
    zeros = zeros_asked(sparsity, total)
    selection = select_global_threshold(scores, float(sparsity), weights)
    entries = [
        (float(s), abs(float(w)), index)
        for index, (s, w) in enumerate(
            zip(torch.cat([s.ravel() for s in scores]), torch.cat([w.ravel() for w in weights]), strict=True)
        )
    ]
    last_zero = sorted(entries)[zeros - 1] if zeros else (-math.inf, 0.0, -1)
    # Some scores land on the threshold, some move away from it, the rest stay.
    generator, index = torch.Generator().manual_seed(seed), 0
    for rule, score, weight in zip(selection.rules, scores, weights, strict=True):
        choice = torch.randint(3, score.shape, generator=generator)
        landed = torch.full_like(score, selection.threshold if zeros else 0.0)
        moved = torch.where(choice == 0, landed, torch.where(choice == 1, score + 0.001, score))
        expected = [
            (float(s), abs(float(w)), index + position) > last_zero
            for position, (s, w) in enumerate(zip(moved.ravel(), weight.ravel(), strict=True))
        ]
        assert rule.mask(moved, weight).ravel().tolist() == expected
        index += score.numel()


@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_constant_scores_and_weights_prune_from_the_front(sparsity):
    scores, weight = torch.full((50, 8), 0.02), torch.full((50, 8), -0.3)
    mask = select_threshold(scores, float(sparsity), weight).mask
    assert torch.equal(mask.ravel(), torch.arange(400) >= zeros_asked(sparsity, 400))


def test_global_ties_prune_whole_matrices_in_order():
    scores, weights = [torch.zeros(3, 4) for _ in range(4)], [torch.ones(3, 4) for _ in range(4)]
    masks = select_global_threshold(scores, 0.625, weights).mask
    assert [int((~mask).sum()) for mask in masks] == [12, 12, 6, 0]


@pytest.mark.parametrize("tie_break", ["exact", "strict"])
def test_none_and_all(tie_break):
    scores, weight = torch.randn(6, 7), torch.randn(6, 7)
    assert select_threshold(scores, 0.0, weight, tie_break).mask.all()
    assert not select_threshold(scores, 1.0, weight, tie_break).mask.any()
    assert (magnitude_scores(weight, 0.0, tie_break=tie_break) == torch.tensor(0.02)).all()
    assert (magnitude_scores(weight, 1.0, tie_break=tie_break) == 0).all()
    assert all(mask.all() for mask in select_global_threshold([scores, scores], 0.0, tie_break=tie_break).mask)
    assert not any(mask.any() for mask in select_global_threshold([scores, scores], 1.0, tie_break=tie_break).mask)


def test_counts_read_the_sparsity_as_written():
    assert count_zeros(0.29, 50) == 15  # 14.5 rounds up, though 0.29 * 50 is 14.499999999999998 in floating point
    assert count_zeros(0.5, 5) == 3
    assert count_zeros(0.1, 5) == 1
    assert count_zeros(1e-9, 10) == 0
    assert count_zeros(0.29, 100, "strict") == 28  # the authors' floating point
    assert count_zeros(0.001, 864, "strict") == 0
    assert count_zeros(0.001, 864, "strict", reset=True) == 1
    assert count_zeros(0.0, 864, "strict", reset=True) == 0
    with pytest.raises(InputError, match=r"sparsity is -0\.1"):
        count_zeros(-0.1, 10)


def test_scores_that_cannot_be_ranked_are_refused():
    with pytest.raises(InputError, match="NaN"):
        select_threshold(torch.tensor([0.1, math.nan, 0.3]), 0.5)
    with pytest.raises(InputError, match="fp32"):
        select_threshold(torch.zeros(3, dtype=torch.bfloat16), 0.5)


def test_half_precision_weights_rank_ties():
    scores, weight = torch.zeros(4), torch.tensor([3.0, -1.0, 2.0, 1.0], dtype=torch.bfloat16)
    assert select_threshold(scores, 0.5, weight).mask.tolist() == [True, False, True, False]
