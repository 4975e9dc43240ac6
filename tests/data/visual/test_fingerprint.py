"""A fingerprint distinguishes features of different origin."""

import numpy as np
import pytest

from cdvqa.data.visual.fingerprint import SAMPLE, measure, sample_rows


def grid(cells=6):
    """Boxes (cells², 4) of a grid, row by row."""
    y, x = np.divmod(np.arange(cells**2), cells)
    return np.stack([x, y, x + 1, y + 1], 1) / cells


@pytest.fixture
def detections():
    rng = np.random.default_rng(0)
    corners = rng.random((20, 36, 2), np.float32)
    boxes = np.concatenate([corners, corners + (1 - corners) * rng.random((20, 36, 2), np.float32)], 2)
    return np.abs(rng.normal(size=(20, 36, 8))).astype(np.float32), boxes


def by(features, boxes, key):
    """The same regions in falling order of `key` (n, R)."""
    order = np.argsort(-key, axis=1)[..., None]
    return np.take_along_axis(features, order, 1), np.take_along_axis(boxes, order, 1)


def test_orders_are_told_apart(detections):
    features, boxes = detections
    area = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    norm = np.linalg.norm(features, axis=2)
    orders = {
        "any": measure(features, boxes)["order"],
        "area": measure(*by(features, boxes, area))["order"],
        "norm": measure(*by(features, boxes, norm))["order"],
        "grid": measure(features, np.broadcast_to(grid(), boxes.shape))["order"],
    }
    assert orders["area"]["area_falls"] > 0.9 and orders["norm"]["norm_falls"] > 0.9
    rising = [orders["grid"][name] for name in ("x1_rises", "y1_rises")]
    assert orders["grid"]["area_falls"] == 0 and rising == pytest.approx([30 / 35, 5 / 35], abs=1e-4)
    assert all(0.4 < share < 0.6 for share in orders["any"].values())


def test_norms_and_boxes(detections):
    features, boxes = detections
    measured = measure(features, boxes)
    norms = [float(np.sqrt((region.astype(np.float64) ** 2).sum())) for image in features for region in image]
    assert measured["norm"] == {
        k: pytest.approx(f(norms), rel=1e-5) for k, f in (("mean", np.mean), ("min", min), ("max", max))
    }
    assert measured["boxes"] == {
        "min": pytest.approx(boxes.min(), rel=1e-5),
        "max": pytest.approx(boxes.max(), rel=1e-5),
    }


def test_unused_regions_do_not_count(detections):
    features, boxes = detections
    used = np.arange(1, 21)
    padded, padded_boxes = features.copy(), boxes.copy()
    for i, count in enumerate(used):
        padded[i, count:], padded_boxes[i, count:] = 0, 99
    measured = measure(padded, padded_boxes, used)
    assert measured["norm"]["min"] > 0 and measured["boxes"]["max"] <= 1
    one = measure(features[:, :1], boxes[:, :1])  # no neighbours
    assert one["order"] == {"area_falls": None, "norm_falls": None, "x1_rises": None, "y1_rises": None}


@pytest.mark.parametrize("images", [1, 63, 64, 65, 1000, 123_287])
def test_the_sample_is_spread_over_the_file(images):
    rows = np.arange(images)[sample_rows(images)]
    assert SAMPLE / 2 <= len(rows) <= SAMPLE or len(rows) == images
    assert rows[0] == 0 and images - rows[-1] <= -(-images // SAMPLE)
