"""Published region features to the one HDF5 file that cdvqa reads."""

from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cdvqa.data.partial import BLOCK, PartialFeatures, verify_features
from cdvqa.data.tsv import FeatureTsv, Report, TsvFormat, TsvRow, refusal
from cdvqa.errors import InputError

FeatureType = Literal["float16", "float32"]


class Conversion(NamedTuple):
    """What `convert_features` did."""

    shape: tuple[int, int, int]
    dtype: str
    found: int
    """How many images it found in a file that was left before."""
    verified: bool
    """Whether the file was there, complete, and has only been read."""


def convert_features(
    source: str | Path,
    target: str | Path,
    format: Literal["auto"] | TsvFormat = "auto",
    dtype: FeatureType = "float16",
    overwrite: bool = False,
    report: Report = lambda step, done, total: None,
) -> Conversion:
    """Convert a TSV of region features, image by image and in constant memory.

    The work is done in TARGET.part, which gets its name when it is complete. After an interruption the same call goes
    on where it was; on a finished file it reads the file through and checks that it is still what was written.

    Args:
        source: a TSV in one of the formats of `cdvqa.data.tsv`.
        target: the HDF5 file. Its regions are as many as the image with most has; where images have fewer, `num_boxes`
            tells how many and the rest is zero.
        format: columns of the TSV; `auto` goes by the number of fields.
        dtype: how features are stored; boxes are float32 shares of the image's width and height.
        overwrite: replace what stands at `target`, or in its partial file, whatever it is.
        report: told of the progress.

    Raises:
        InputError: the input is wrong (file, line and image are named; nothing is left of the output), or the output
            was made from another input or with other options.
    """
    tsv, target = FeatureTsv(source, format), Path(target)
    made_from: dict[str, Any] = {**tsv.identity, "format": tsv.format, "dtype": dtype}
    if target.exists() and not overwrite:
        shape, stored = verify_features(target, made_from)
        return Conversion(shape, stored, found=shape[0], verified=True)
    path = target.with_name(f"{target.name}.part")
    partial = None if overwrite else PartialFeatures.resume(path, made_from)
    found = partial.rows if partial else 0
    try:
        partial = partial or PartialFeatures.create(path, made_from, tsv.index(report), tsv.region_width, dtype)
        with closing(partial):
            _copy(tsv, partial, made_from, report)
            partial.finish(target)
    except InputError:
        path.unlink(missing_ok=True)
        raise
    return Conversion(partial.shape, dtype, found, verified=False)


def _copy(tsv: FeatureTsv, partial: PartialFeatures, made_from: dict[str, Any], report: Report) -> None:
    images, regions, width = partial.shape
    features = np.empty((min(BLOCK, images), regions, width), made_from["dtype"])
    boxes = np.empty((len(features), regions, 4), np.float32)
    rows = tsv.rows(partial.offset, partial.rows + 1)
    while partial.rows < images:
        count, offset = _fill(features, boxes, rows)
        if tsv.identity.items() - made_from.items():
            raise InputError(f"{tsv.path}: the file changed while it was read; start again when it is complete")
        partial.append(features[:count], boxes[:count], offset)
        report("converting", offset, tsv.bytes)


def _fill(features: NDArray[Any], boxes: NDArray[np.float32], rows: Iterator[TsvRow]) -> tuple[int, int]:
    """Decode the next rows into the two buffers; return how many there were and the offset behind them."""
    features[:], boxes[:] = 0, 0
    count, offset = 0, 0
    for count, row in enumerate(islice(rows, len(features)), 1):
        scale = np.array([row.width, row.height] * 2, np.float32)
        _put(row, "features", row.decode("features"), features[count - 1])
        _put(row, "boxes", row.decode("boxes") / scale, boxes[count - 1])
        offset = row.end
    return count, offset


def _put(row: TsvRow, field: str, values: NDArray[Any], place: NDArray[Any]) -> None:
    """Store an image's values, if the stored type can hold them."""
    limit = float(np.finfo(place.dtype).max)
    if not max(values.max(), -values.min()) <= limit:  # false for NaN too
        remedy = "" if np.isinf(values).any() or np.isnan(values).any() else "; use --dtype float32"
        raise refusal(row.where, f"{field} has NaN, infinite or too large values for {place.dtype}{remedy}", cut=False)
    place[: row.num_boxes] = values
