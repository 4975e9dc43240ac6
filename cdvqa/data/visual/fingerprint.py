"""Measurements of region features, so that features of different origin are not mistaken for each other."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

SAMPLE = 64  # images
_STEP = 1e-4  # a smaller change is rounding: the cells of a grid are of one size


def sample_rows(images: int) -> slice:
    """The rows of a file of N images that are measured: at most `SAMPLE`, evenly spaced from the first on."""
    return slice(0, images, -(-images // SAMPLE))


def measure(
    features: NDArray[np.floating], boxes: NDArray[np.floating], num_boxes: NDArray[np.integer] | None = None
) -> dict[str, Any]:
    """Measure n images: how long their feature vectors are, where their boxes lie, and in which order regions come.

    Args:
        features: (n, R, F).
        boxes: (n, R, 4) = x1, y1, x2, y2 as shares of the image.
        num_boxes: (n,) regions in use; all of them if None.

    Returns:
        `images` n; `norm` mean, min and max of the regions' L2 norms; `boxes` min and max; `order`: the share of
        neighbouring regions (r, r + 1) where area or norm falls, and where x1 or y1 rises. Regions sorted by area or by
        norm give nearly 1 there, a row-wise grid of k columns about 1 − 1/k for x1, 1/k for y1 and 0 for the area, any
        other order about a half.
    """
    regions = features.shape[1]
    used = np.arange(regions) < (np.full(len(features), regions) if num_boxes is None else num_boxes)[:, None]
    norm = np.stack([np.linalg.norm(image.astype(np.float64), axis=1) for image in features])
    x1, y1, x2, y2 = np.moveaxis(boxes.astype(np.float64), 2, 0)
    pairs = used[:, 1:]  # the second of a pair is in use, so the first is
    rising = {"area_falls": -(x2 - x1) * (y2 - y1), "norm_falls": -norm, "x1_rises": x1, "y1_rises": y1}
    order = {name: _share((np.diff(values, axis=1) > _STEP)[pairs]) for name, values in rising.items()}
    in_boxes, in_norm = boxes[used], norm[used]
    return {
        "images": len(features),
        "norm": {"mean": _round(in_norm.mean()), "min": _round(in_norm.min()), "max": _round(in_norm.max())},
        "boxes": {"min": _round(in_boxes.min()), "max": _round(in_boxes.max())},
        "order": order,
    }


def _share(pairs: NDArray[np.bool_]) -> float | None:
    return round(float(pairs.mean()), 4) if pairs.size else None


def _round(value: Any) -> float:
    return float(f"{value:.6g}")
