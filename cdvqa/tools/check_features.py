"""The feature file that a config needs: whether it is finished, what is in it, and how far it can be trusted."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cdvqa.conversion.feature_file import read_layout
from cdvqa.data.datamodule import VQADataModule
from cdvqa.data.visual.features import RegionFeatures
from cdvqa.data.visual.fingerprint import sample_rows
from cdvqa.data.visual.rows import open_rows
from cdvqa.data.visual.source import VisualSource
from cdvqa.errors import InputError
from cdvqa.tools.findings import Finding, Item, Report, made_by, reason

SOURCE = (
    "trainval2014_36 of the bottom-up-attention project, obj36 of the LXMERT project, or any other input of "
    "`cdvqa prepare features --input FILE --output {}`"
)
SLACK = 0.01  # detectors put boxes a pixel beyond the edge; boxes in pixels are off by far more
HALF = float(np.finfo(np.float16).max)


class Visual(NamedTuple):
    """What was found out, the reader of a readable file or folder, and what tells it from others (or nothing)."""

    report: Report
    reader: VisualSource | None
    fingerprint: dict[str, Any]


def check_features(data: VQADataModule, region_width: int | None) -> Visual:
    """Look at the feature file of `data`, at its content in a sample of images.

    Args:
        data: the config's data module; nothing has been read.
        region_width: F that the backbone takes, if it takes regions.
    """
    path = data.features_file
    item = Item("region features", str(path), made_by(data, SOURCE.format(path)))
    report = Report([item], _in_the_making(path))
    if not path.is_file():
        return Visual(report, None, {})
    item.size = path.stat().st_size
    try:
        features = RegionFeatures(path)
        rows = np.arange(len(features))[sample_rows(len(features))]
        values, boxes = _read(path, "features", rows), _read(path, "boxes", rows)
    except InputError as error:
        item.problem = reason(error, path)
        return Visual(report, None, {})
    images, regions, width = features.shape
    item.holds = f"{images:,} images, {regions} x {width} {features.dtype}"
    if region_width is not None:
        report.findings.append(
            Finding.of(width == region_width, f"features are {width} wide, the backbone takes {region_width}")
        )
    report.findings.extend((_values(values, features.image_id[rows]), _boxes(boxes)))
    try:
        fingerprint = features.fingerprint()
    except InputError as error:  # not finite in the images it looks at
        report.findings.append(Finding("WRONG", f"no fingerprint of the features: {reason(error, path)}"))
        return Visual(report, features, {})
    item.digest = f"{fingerprint['sample_sha256']}*"
    item.holds += "; * SHA-256 of its image ids and of 8 of its images"
    report.findings.append(Finding("ok", f"fingerprint of the features: {_describe(fingerprint)}"))
    return Visual(report, features, fingerprint)


def _read(path: Path, name: str, rows: NDArray[np.intp]) -> NDArray[np.floating]:
    """Rows as they are stored: the reader of features refuses those that are not finite."""
    stored = open_rows(path, name)
    values = np.empty((len(rows), *stored.row_shape), stored.dtype)
    stored.read(rows, values)
    return values


def _values(values: NDArray[np.floating], image_id: NDArray[np.int64]) -> Finding:
    sampled = f"of {len(values)} sampled images"
    finite = np.isfinite(values).all((1, 2))
    if not finite.all():
        first = values[~finite][0]
        overflow = values.dtype == np.float16 and np.isinf(first).any()
        why = f" (float16 ends at {HALF:,.0f}: keep such features as float32)" if overflow else ""
        which = f"image {image_id[~finite][0]} has NaN or infinite features{why}"
        return Finding("WRONG", f"features {sampled}: {np.count_nonzero(~finite)} are not finite; first {which}")
    low, high = float(values.min()), float(values.max())
    text = f"features {sampled} are finite, {low:.4g} to {high:.4g}"
    if max(-low, high) > HALF:
        return Finding("note", f"{text}, too large for float16: keep them as float32, and train without float16")
    return Finding("ok", text)


def _boxes(boxes: NDArray[np.floating]) -> Finding:
    first, last = float(boxes.min()), float(boxes.max())
    text = f"their boxes reach from {first:.4g} to {last:.4g} of the image's width and height"
    return Finding.of(first >= -SLACK and last <= 1 + SLACK, text)


def _describe(fingerprint: dict[str, Any]) -> str:
    extractor, origin = fingerprint.get("extractor"), fingerprint.get("source_digest")
    told = [f"extractor {extractor}" if extractor else "extractor not named"]
    if origin:
        told.append(f"made from a file of {origin}")
    told.append(f"mean norm {fingerprint['norm']['mean']:.4g}")
    order = {name.replace("_", " "): share for name, share in fingerprint["order"].items() if share is not None}
    if order:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in order.items())
        told.append(f"from one region to the next {shares}")
    return "; ".join(told)


def _in_the_making(path: Path) -> list[Finding]:
    """The partial file that an interrupted `cdvqa prepare features` left, or one at work is filling."""
    part = path.with_name(f"{path.name}.part")
    if not part.is_file():
        return []
    command, state = f"cdvqa prepare features --output {path}", "nothing is converted yet"
    try:
        with part.open("rb") as opened:
            file = read_layout(part, opened.fileno())
            done = file.images(file.done()) if file else 0
    except (OSError, InputError):  # not laid out yet, or of other making: the command deals with it
        file, done = None, 0
    if file is not None:
        images = "--images FOLDER" if file.source["format"] == "grid" else "--input FILE"
        command += f" {images} --dtype {file.source['dtype']}"
        state = f"{done:,} of {len(file.index):,} images are converted"
    return [Finding("note", f"{part}: {state}; go on with `{command}` and the input it was begun with")]
