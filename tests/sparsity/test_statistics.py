"""Numbers about masks."""

import math

import pytest
import torch

from cdvqa.sparsity import MatrixReset, sparsity_by_matrix, sparsity_by_modality, summarise
from cdvqa.sparsity.statistics import Overlap, common_zeros, overlap_by_modality

MASKS = {
    "a": torch.tensor([[True, False], [False, False]]),
    "b": torch.tensor([True, True]),
    "c": torch.tensor([False, True, True, True]),
}
REPORT = {
    "a": MatrixReset("language", weights=40, zeros=20, zeros_before=18, flips=4, threshold=0.01),
    "b": MatrixReset("language", weights=10, zeros=5, zeros_before=6, flips=1, threshold=0.03),
    "c": MatrixReset("cross", weights=50, zeros=0, zeros_before=0, flips=0, threshold=-math.inf),
    "d": MatrixReset("cross", weights=100, zeros=50, zeros_before=50, flips=0, threshold=None),
}


def test_sparsity_is_the_share_of_zeros():
    assert sparsity_by_matrix(MASKS) == {"a": 0.75, "b": 0.0, "c": 0.25}
    shares = sparsity_by_modality(MASKS, {"language": ["a", "b"], "cross": ["c"], "vision": []})
    assert shares == {"language": 0.5, "cross": 0.25, "overall": 0.4}


def test_a_reset_in_numbers():
    assert summarise(REPORT) == pytest.approx(
        {
            "sparsity/overall": 75 / 200,
            "sparsity/language": 0.5,
            "sparsity/cross": 50 / 150,
            "mask/flips/overall": 5 / 200,
            "mask/flips/language": 0.1,
            "mask/flips/cross": 0.0,
            "mask/drift/overall": -1 / 200,
            "mask/drift/language": -1 / 50,
            "mask/drift/cross": 0.0,
            "mask/threshold/min": 0.01,
            "mask/threshold/mean": 0.02,
            "mask/threshold/max": 0.03,
            "mask/threshold/language": 0.02,
        }
    )


def test_overlap_is_of_zeros():
    """2 of the 4 zeros of either mask of `a` and `b` are common; `c` has none, and counts as equal."""
    first = {"a": torch.tensor([[0, 0], [0, 1]]).bool(), "b": torch.tensor([1, 1]).bool(), "c": torch.ones(4).bool()}
    second = {"a": torch.tensor([[0, 0], [1, 1]]).bool(), "b": torch.tensor([1, 0]).bool(), "c": torch.ones(4).bool()}
    overlaps = common_zeros(first, second)
    assert overlaps["a"] == Overlap(weights=4, first=3, second=2, both=2)
    assert [1 - overlap.agreement for overlap in overlaps.values()] == [0.25, 0.5, 0.0]
    indices = overlap_by_modality(overlaps, {"language": ["a", "b"], "cross": ["c"], "vision": []})
    assert indices == {"language": 0.5, "cross": 1.0, "overall": 0.5}
