"""Random changes to images: what they may do, how often, and that they depend on the generator alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from cdvqa.data.visual import augmentation
from cdvqa.data.visual.augmentation import mplug


def gradient(width, height):
    """Red grows to the right, green downwards, blue stays."""
    x, y = np.meshgrid(np.linspace(0, 250, width), np.linspace(0, 250, height))
    return Image.fromarray(np.stack([x, y, np.full_like(x, 60)], -1).astype(np.uint8))


@given(st.integers(1, 900), st.integers(1, 900), st.integers(0, 2**32))
def test_a_random_part_lies_in_the_picture_and_is_large_enough(width, height, seed):
    left, top, right, bottom = augmentation._random_box((width, height), np.random.default_rng(seed))
    assert 0 <= left < right <= width and 0 <= top < bottom <= height
    w, h = right - left, bottom - top
    if min(width, height) > 100:  # where rounding to pixels does not matter
        assert 0.98 * 3 / 4 < w / h < 1.02 * 4 / 3
        fits_nowhere = max(width / height, height / width) > 2 * 4 / 3  # even half the area is too wide or high
        assert w * h >= 0.49 * width * height or fits_nowhere


def test_parts_differ_and_take_half_to_all_of_the_area():
    rng = np.random.default_rng(0)
    boxes = np.array([augmentation._random_box((400, 300), rng) for _ in range(400)])
    shares = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) / (400 * 300)
    assert 0.49 < shares.min() < 0.55 and 0.9 < shares.max() <= 1
    ratios = (boxes[:, 2] - boxes[:, 0]) / (boxes[:, 3] - boxes[:, 1])
    assert 0.74 < ratios.min() < 0.8 and 1.25 < ratios.max() < 1.35
    assert len(np.unique(boxes[:, 0])) > 50


def test_half_of_the_pictures_are_mirrored(monkeypatch):
    monkeypatch.setattr(augmentation, "_CHANGES", (lambda picture, sign: picture,))
    looks = [np.asarray(mplug(gradient(40, 30), 16, np.random.default_rng(seed)), int) for seed in range(400)]
    grows = [pixels[8, -1, 0] > pixels[8, 0, 0] for pixels in looks]
    assert 160 < sum(grows) < 240
    assert all(pixels[-1, 8, 1] > pixels[0, 8, 1] and abs(pixels[..., 2] - 60).max() <= 1 for pixels in looks)


def test_each_of_two_operations_is_applied_half_of_the_time(monkeypatch):
    done = []
    changes = [lambda picture, sign, number=n: done.append((number, int(sign))) or picture for n in range(10)]
    monkeypatch.setattr(augmentation, "_CHANGES", changes)
    numbers = []
    for seed in range(1000):
        before = len(done)
        mplug(gradient(12, 12), 8, np.random.default_rng(seed))
        numbers.append(len(done) - before)
    assert 200 < numbers.count(0) < 300 and 200 < numbers.count(2) < 300 and max(numbers) == 2
    assert all(60 < sum(which == n for which, _ in done) < 140 for n in range(10))
    assert 430 < sum(sign == 1 for _, sign in done) < 570 and {sign for _, sign in done} == {-1, 1}


def changed(number, picture, sign=1):
    return np.asarray(augmentation._CHANGES[number](picture, sign), int)


def test_the_ten_operations():
    picture = gradient(41, 41)
    pixels = np.asarray(picture, int)
    assert len(augmentation._CHANGES) == 10
    np.testing.assert_array_equal(changed(0, picture), pixels)
    np.testing.assert_array_equal(changed(1, picture), np.asarray(ImageOps.autocontrast(picture)))
    np.testing.assert_array_equal(changed(2, picture), np.asarray(ImageOps.equalize(picture)))
    np.testing.assert_allclose(changed(3, picture), np.minimum(pixels * 1.36, 255), atol=1)  # 0.1 + 1.8 * 0.7
    np.testing.assert_array_equal(changed(4, picture)[2:-2, 2:-2], pixels[2:-2, 2:-2])  # nothing to sharpen in a slope


@pytest.mark.parametrize("sign", [-1, 1])
def test_shifts_shears_and_turns(sign):
    picture = gradient(41, 41)
    pixels = np.asarray(picture, int)
    shifted = changed(7, picture, sign)  # by 7 pixels sideways
    kept, source = (slice(0, 34), slice(7, 41)) if sign == 1 else (slice(7, 41), slice(0, 34))
    np.testing.assert_allclose(shifted[:, kept], pixels[:, source], atol=1)
    bare = shifted[:, 34:] if sign == 1 else shifted[:, :7]
    assert (bare == 128).all()
    np.testing.assert_array_equal(changed(8, picture, sign), shifted.transpose(1, 0, 2)[..., [1, 0, 2]])
    sheared = changed(5, picture, sign)  # 0.21 pixels sideways in every row
    np.testing.assert_allclose(sheared[20, 10:30, 0], pixels[20, 10:30, 0] + sign * 0.21 * 20 * 250 / 40, atol=3)
    np.testing.assert_allclose(sheared[20, 10:30, 1], pixels[20, 10:30, 1], atol=1)
    np.testing.assert_array_equal(changed(6, picture, sign), sheared.transpose(1, 0, 2)[..., [1, 0, 2]])
    turned = changed(9, picture, sign)  # by 21 degrees about the middle
    assert abs(turned[20, 20] - pixels[20, 20]).max() <= 1
    slope = np.arctan2(turned[20, 24, 1] - turned[20, 16, 1], turned[20, 24, 0] - turned[20, 16, 0])
    assert abs(np.degrees(slope)) == pytest.approx(21, abs=2) and np.sign(slope) == sign
    assert (turned[0, 0] == 128).all()
