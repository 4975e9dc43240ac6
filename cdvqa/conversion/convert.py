"""Published region features to the one HDF5 file that cdvqa reads."""

import json
import os
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from cdvqa.conversion.blocks import BlockFile, Interrupted, convert_block, reading, store, verify_block
from cdvqa.conversion.resumable import FeatureFile, claimed, lay_out, read_layout, readable, rename
from cdvqa.conversion.sources.source import FeatureIndex, FeatureSource, Progress
from cdvqa.conversion.workers import results
from cdvqa.data.visual.fingerprint import measure, sample_rows
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
    source: FeatureSource,
    target: str | Path,
    dtype: FeatureType = "float16",
    workers: int = 1,
    overwrite: bool = False,
    report: Progress = lambda step, done, total: None,
) -> Conversion:
    """Convert region features block by block, in constant memory, and verify what was written.

    The work is done in TARGET.part, which gets its name when it is complete. After an interruption the same call goes
    on where it was; on a finished file it reads the file through and checks that it is still what was written.

    Args:
        source: the input, as `cdvqa.conversion.sources.recognise.open_source` opens it.
        target: the HDF5 file. Its regions are as many as the image with most has; where images have fewer, `num_boxes`
            tells how many and the rest is zero.
        dtype: how features are stored; boxes are float32 shares of the image's width and height.
        workers: processes that decode and write.
        overwrite: replace what stands at `target`, or in its partial file, whatever it is. A partial file that was
            begun from this input with these options is still gone on with.
        report: told of the progress.

    Raises:
        InputError: the input is wrong (file, record and image are named; nothing is left of the output), or the output
            was made from another input or with other options.
        Interrupted: the disk is full or fails, or a worker was killed; the partial file is kept.
    """
    target = Path(target)
    made_from = json.loads(json.dumps({"format": source.format, "dtype": dtype, **source.identity}))
    if target.is_dir():
        raise InputError(f"{target}: is a folder; --output names a file")
    if target.exists() and not overwrite:
        return _verified(target, made_from, workers, report)
    path = target.with_name(f"{target.name}.part")
    with claimed(path) as descriptor:
        file = _left_before(path, descriptor, made_from, overwrite)
        found = file.images_done() if file else 0
        try:
            file = file or _begun(source, path, descriptor, made_from, report)
            _convert(source, file, workers, report)
            _check_unchanged(source, made_from)
            _check_written(file.blocks, workers, report)
            rename(path, target)
        except Interrupted:
            raise
        except InputError:
            path.unlink(missing_ok=True)
            _check_unchanged(source, made_from)  # the likelier reason, if so
            raise
    return Conversion(file.blocks.shape, dtype, found, verified=False)


def _left_before(path: Path, descriptor: int, made_from: dict[str, Any], overwrite: bool) -> FeatureFile | None:
    """The partial file that an earlier call left; None where there is none, or none that got beyond being laid out."""
    try:
        file = read_layout(path, descriptor)
    except OSError:  # new, or of unknown origin
        return None
    except InputError:
        if overwrite:
            return None
        raise
    if file and file.source != made_from:
        if overwrite:
            return None
        raise InputError(f"{path}: begun from another input or with other options; start over with --overwrite")
    return file


def _begun(
    source: FeatureSource, path: Path, descriptor: int, made_from: dict[str, Any], report: Progress
) -> FeatureFile:
    with reading(source):
        index = source.index(report)
        fingerprint = _fingerprint(source, index, made_from["dtype"], report)
    return lay_out(path, descriptor, index, made_from["dtype"], source.images_per_block, made_from, fingerprint)


def _fingerprint(source: FeatureSource, index: FeatureIndex, dtype: str, report: Progress) -> dict[str, Any]:
    """Taken before the conversion, so that the file is complete when its last block is."""
    shape = (len(index), int(index.num_boxes.max()), index.region_width)
    sample = index[sample_rows(shape[0])]
    features = np.empty((len(sample), *shape[1:]), dtype)
    boxes = np.empty((*features.shape[:2], 4), np.float32)
    for place, image in enumerate(source.images(sample)):
        store(image, features[place], boxes[place])
        report("measuring a sample", source.bytes * (place + 1) // len(sample), source.bytes)
    origin = {"shape": shape, "dtype": dtype, "extractor": source.extractor, "source_digest": source.digest}
    return origin | measure(features, boxes, sample.num_boxes)


def _convert(source: FeatureSource, file: FeatureFile, workers: int, report: Progress) -> None:
    blocks, done = file.blocks, file.images_done()
    tasks = [(block, file.index[blocks.rows(block)]) for block in np.flatnonzero(~blocks.done()).tolist()]
    with closing(results(partial(convert_block, blocks, source), tasks, workers)) as finished:
        for block in finished:
            done += blocks.images(block)
            report("converting", source.bytes * done // blocks.shape[0], source.bytes)


def _broken(blocks: BlockFile, workers: int, report: Progress) -> list[int]:
    """Read a file through; the blocks that do not hold what was written."""
    images, size = 0, os.fstat(blocks.descriptor).st_size
    broken = []
    with closing(results(partial(verify_block, blocks), range(len(blocks)), workers)) as verified:
        for block, sound in verified:
            images += blocks.images(block)
            report("verifying", size * images // blocks.shape[0], size)
            if not sound:
                broken.append(block)
    return sorted(broken)


def _check_written(blocks: BlockFile, workers: int, report: Progress) -> None:
    if broken := _broken(blocks, workers, report):
        for block in broken:
            blocks.forget(block)
        count = f"{len(broken)} blocks do" if len(broken) > 1 else "1 block does"
        what = f"{count} not read back as written, the disk may be failing"
        raise Interrupted(f"{blocks.name}: {what}; run the same command again to write it anew")


def _verified(target: Path, made_from: dict[str, Any], workers: int, report: Progress) -> Conversion:
    with readable(target) as descriptor:
        try:
            file = read_layout(target, descriptor)
        except OSError as error:
            raise InputError(f"{target}: not a readable HDF5 file ({error}); replace it with --overwrite") from None
        if not file or file.source != made_from:
            raise InputError(f"{target}: not made from this input with these options; replace it with --overwrite")
        blocks = file.blocks
        if broken := _broken(blocks, workers, report):
            rows = blocks.rows(broken[0])
            what = f"its content has changed since it was made, first in images {rows.start} to {rows.stop - 1}"
            raise InputError(f"{target}: {what}; make it again with --overwrite")
    return Conversion(blocks.shape, blocks.dtype, blocks.shape[0], verified=True)


def _check_unchanged(source: FeatureSource, made_from: dict[str, Any]) -> None:
    try:
        unchanged = json.loads(json.dumps(source.identity)).items() <= made_from.items()
    except OSError:
        unchanged = False
    if not unchanged:
        raise InputError(f"{source.path}: the file changed while it was read; start again when it is complete")
