"""The last zero of a ranking, found on the CPU and as on a GPU, against a full sort."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from cdvqa.sparsity.selection import kth
from cdvqa.sparsity.selection.kth import BLOCK, by_counting, by_sorting

SEARCHES = pytest.mark.parametrize("search", [by_counting, by_sorting], ids=["cpu", "gpu"])
SPECIAL = [0.0, -0.0, math.inf, -math.inf, 1e-45, -1e-45, 1.1754942e-38, -1.1754942e-38, 3.4028235e38, -3.4028235e38]


def floats(dtype):
    width = 8 * dtype.itemsize
    return st.one_of(st.sampled_from([0.0, 0.02]), st.sampled_from(SPECIAL), st.floats(allow_nan=False, width=width))


@st.composite
def rankings(draw):
    """Parts of scores and weights of one type, and a rank; at least one entry in all."""
    dtype = np.dtype(draw(st.sampled_from([np.float32, np.float64])))
    lengths = draw(st.lists(st.integers(0, 30), min_size=1, max_size=4).filter(any))
    scores = [draw(arrays.arrays(dtype, length, elements=floats(dtype))) for length in lengths]
    weights = [draw(arrays.arrays(dtype, length, elements=floats(dtype))) for length in lengths]
    return scores, weights, draw(st.integers(1, sum(lengths)))


def sorted_last_zero(scores, weights, zeros):
    """Score, |weight| and global index of the entry at the rank, by one full sort."""
    score, size = np.concatenate(scores), np.abs(np.concatenate(weights))
    last = np.lexsort((np.arange(len(score)), size, score))[zeros - 1]
    return score[last], size[last], last


def check(search, scores, weights, zeros):
    score, size, last = sorted_last_zero(scores, weights, zeros)
    tensors = [[torch.from_numpy(array) for array in part] for part in (scores, weights)]
    values, places = search(*tensors, zeros)
    assert values.dtype == tensors[0][0].dtype
    assert values.tolist() == [score, size]
    # 0.0 and -0.0 are one number, and it is written 0.0.
    assert not (values[0] == 0 and values[0].signbit())
    starts = np.cumsum([0, *map(len, scores)])
    seen = [int(np.clip(last - start, -1, len(part))) for start, part in zip(starts, scores, strict=False)]
    # A part without entries has nothing before or beyond the last zero.
    assert [place for place, part in zip(places.tolist(), scores, strict=True) if len(part)] == [
        place for place, part in zip(seen, scores, strict=True) if len(part)
    ]


@SEARCHES
@settings(max_examples=150)
@given(ranking=rankings())
def test_last_zero_of_any_floats_is_that_of_a_full_sort(search, ranking):
    check(search, *ranking)


def large(kind, entries, generator):
    scores = generator.standard_normal(entries).astype(np.float32)
    two = generator.choice(np.float32([0, 0.02]), entries, p=[0.7, 0.3])
    weights = generator.standard_normal(entries).astype(np.float32)
    return {
        "spread": (scores, weights),
        "sorted": (np.sort(scores), weights),
        "falling": (np.sort(scores)[::-1].copy(), weights),
        "two values": (two, weights),
        "two values, few weights": (two, np.round(weights)),
        "one value": (np.full_like(scores, 0.02), np.full_like(weights, -0.5)),
        "half tied": (np.where(generator.random(entries) < 0.5, two, scores), weights),
        "infinite": (np.where(generator.random(entries) < 0.6, np.float32(np.inf), -np.float32(np.inf)), weights),
    }[kind]


KINDS = ["spread", "sorted", "falling", "two values", "two values, few weights", "one value", "half tied", "infinite"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("entries", [BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 7])
def test_across_blocks(kind, entries):
    scores, weights = large(kind, entries, np.random.default_rng(entries))
    for zeros in (1, entries // 3, 7 * entries // 10, entries):
        check(by_counting, [scores], [weights], zeros)
    ends = [1, 500, BLOCK - 3]
    check(by_counting, np.split(scores, ends), np.split(weights, ends), entries // 2)


@SEARCHES
@pytest.mark.parametrize("kind", KINDS)
def test_all_searches_find_the_same(search, kind):
    scores, weights = large(kind, 3000, np.random.default_rng(1))
    for zeros in (1, 1000, 2100, 3000):
        check(search, np.split(scores, [700, 701]), np.split(weights, [700, 701]), zeros)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("places", [np.arange(40), np.arange(40) + 4960, np.zeros(3, dtype=int)])
def test_a_sample_that_misleads_costs_passes_and_nothing_else(monkeypatch, kind, places):
    scores, weights = large(kind, 5000, np.random.default_rng(2))
    monkeypatch.setattr(kth, "_sample", lambda total: places)
    for zeros in (1, 2500, 3500, 5000):
        check(by_counting, [scores], [weights], zeros)


@SEARCHES
@pytest.mark.parametrize("place", [0, 4999])
def test_one_nan_is_reported(search, place):
    scores = torch.randn(5000, generator=torch.Generator().manual_seed(0))
    scores[place] = math.nan
    parts = list(scores.split(1000))
    assert search(parts, parts, 4000)[0][0].isnan()


@SEARCHES
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_of_another_type_are_ranked_in_the_scores_type(search, dtype):
    scores, weights = torch.zeros(6), torch.tensor([3.0, -1.0, 2.0, 1.0, -1.0, 0.5], dtype=dtype)
    values, places = search([scores], [weights], 3)
    assert values.dtype == torch.float32
    assert values.tolist() == [0.0, 1.0]
    assert places.tolist() == [3]


def test_the_search_of_a_gpu_never_reads_a_value():
    # Tensors without data refuse whatever would make a GPU wait for the host: .item(), nonzero(), boolean indexing.
    parts = [torch.empty(length, device="meta") for length in (5, 0, 700)]
    values, places = by_sorting(parts, parts, 300)
    assert (values.shape, places.shape) == ((2,), (3,))


def test_threads_change_nothing():
    scores, weights = large("half tied", 2 * BLOCK + 7, np.random.default_rng(3))
    tensors = [torch.from_numpy(scores)], [torch.from_numpy(weights)]
    threads, found = torch.get_num_threads(), []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            found.append([tensor.tolist() for tensor in by_counting(*tensors, BLOCK)])
    finally:
        torch.set_num_threads(threads)
    assert found[0] == found[1]
