"""The cast to halves is numpy's cast."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cdvqa.conversion.half import narrow


def halves():
    """All finite halves from 0 to 65504, as float32."""
    return np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)


def narrowed(values):
    out = np.empty(values.shape, np.float16)
    narrow(values, out)
    return out.view(np.uint16)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("towards", [None, 0, np.inf], ids=["ties", "below ties", "above ties"])
def test_around_every_tie(sign, towards):
    ties = (halves()[1:] + halves()[:-1]) / 2
    values = ties if towards is None else np.nextafter(ties, np.float32(towards))
    np.testing.assert_array_equal(narrowed(sign * values), (sign * values).astype(np.float16).view(np.uint16))


@pytest.mark.parametrize("sign", [1, -1])
def test_halves_stay_what_they_are(sign):
    np.testing.assert_array_equal(narrowed(sign * halves()), (sign * halves()).astype(np.float16).view(np.uint16))


@given(arrays(np.float32, (3, 7), elements=st.floats(-65504, 65504, width=32)))
def test_anything_a_half_can_hold(values):
    np.testing.assert_array_equal(narrowed(values), values.astype(np.float16).view(np.uint16))
