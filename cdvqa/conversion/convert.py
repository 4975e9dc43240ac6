"""Converts published region features to the one HDF5 file that cdvqa reads."""

import json
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import repeat
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from cdvqa.conversion.feature_file import FeatureFile, claimed, lay_out, read_layout, rename, store
from cdvqa.conversion.sources.source import FeatureIndex, FeatureSource, ImageRegions, Progress
from cdvqa.data.visual.fingerprint import measure, sample_rows
from cdvqa.errors import InputError, Stopped

FeatureType = Literal["float16", "float32"]


class Conversion(NamedTuple):
    """What `convert_features` did."""

    shape: tuple[int, int, int]
    """Images, regions and width of `features`."""
    dtype: str
    found: int
    """How many images an earlier call had converted."""
    verified: bool
    """Whether a complete file was there, so that it has only been read."""


def convert_features(
    source: FeatureSource,
    target: str | Path,
    dtype: FeatureType = "float16",
    workers: int = 1,
    overwrite: bool = False,
    progress: Progress = lambda step, done, total: None,
) -> Conversion:
    """Convert region features block by block, in constant memory.

    The work is done in TARGET.part, which is renamed when it is complete. After an interruption the same call checks
    what is done and continues; on a finished file it checks that the content is still what was written.

    Args:
        source: the input, as `cdvqa.conversion.sources.open_features` opens it.
        target: the HDF5 file. It has as many regions as the image with most; where images have fewer, `num_boxes`
            says how many and the rest is zero.
        dtype: how features are stored; boxes are float32 shares of the image's width and height.
        workers: processes that compute regions; more than one pay where a network computes them.
        overwrite: replace what is at `target`, or in its partial file, whatever it is. A partial file that was begun
            from this input with these options is still continued.
        progress: see `Progress`.

    Raises:
        InputError: the input is wrong (file, record and image are named; nothing is left of the output), or the output
            was made from another input or with other options.
        Stopped: a disk is full or fails, or a worker was killed; the partial file is kept.
    """
    target = Path(target)
    made_from = json.loads(json.dumps({"format": source.format, "dtype": dtype, **source.identity}))
    if target.exists() and not target.is_file():
        raise InputError(f"{target}: is a folder or a device; --output names a file")
    if target.exists() and not overwrite:
        return _verified(target, made_from, progress)
    path = target.with_name(f"{target.name}.part")
    with claimed(path) as descriptor:
        file = _found(path, descriptor, made_from, overwrite)
        done = _sound_blocks(file, progress) if file else []
        try:
            file = file or _begun(source, path, descriptor, made_from, progress)
            found = file.images(done)
            missing = sorted(set(range(len(file))) - set(done))
            for count, (block, regions) in enumerate(_converted(source, file, missing, workers), 1):
                file.write(block, regions)
                images = found + file.images(missing[:count])
                progress("converting", source.bytes * images // len(file.index), source.bytes)
            _check_unchanged(source, made_from)
        except InputError:
            path.unlink(missing_ok=True)
            _check_unchanged(source, made_from)  # the likelier reason, if so
            raise
        rename(path, target)
    return Conversion(file.shape, file.dtype, found, verified=False)


def _found(path: Path, descriptor: int, made_from: dict[str, Any], overwrite: bool) -> FeatureFile | None:
    """The partial file of an earlier call; None where there is none, or one that was not completely laid out."""
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
    source: FeatureSource, path: Path, descriptor: int, made_from: dict[str, Any], progress: Progress
) -> FeatureFile:
    with _reading(source.path):
        index = source.index(progress)
    fingerprint = _fingerprint(source, index, made_from["dtype"], progress)
    return lay_out(path, descriptor, index, made_from["dtype"], source.images_per_block, made_from, fingerprint)


def _fingerprint(source: FeatureSource, index: FeatureIndex, dtype: str, progress: Progress) -> dict[str, Any]:
    """Measured before the conversion, so that the file is complete once its last block is written."""
    shape = (len(index), int(index.num_boxes.max()), index.region_width)
    sample = index[sample_rows(shape[0])]
    features = np.empty((len(sample), *shape[1:]), dtype)
    boxes = np.empty((*features.shape[:2], 4), np.float32)
    for row, image in enumerate(_regions(source, sample)):
        store(image, features[row], boxes[row])
        progress("measuring a sample", source.bytes * (row + 1) // len(sample), source.bytes)
    origin = {"shape": shape, "dtype": dtype, "extractor": source.extractor, "source_digest": source.digest}
    return origin | measure(features, boxes, sample.num_boxes)


def _verified(target: Path, made_from: dict[str, Any], progress: Progress) -> Conversion:
    with target.open("rb") as opened:
        try:
            file = read_layout(target, opened.fileno())
        except OSError as error:
            raise InputError(f"{target}: not a readable HDF5 file ({error}); replace it with --overwrite") from None
        if not file or file.source != made_from:
            raise InputError(f"{target}: not made from this input with these options; replace it with --overwrite")
        if broken := sorted(set(range(len(file))) - set(_sound_blocks(file, progress))):
            rows = file.rows(broken[0])
            what = f"its content has changed since it was made, first in images {rows.start} to {rows.stop - 1}"
            raise InputError(f"{target}: {what}; make it again with --overwrite")
    return Conversion(file.shape, file.dtype, file.shape[0], verified=True)


def _sound_blocks(file: FeatureFile, progress: Progress) -> list[int]:
    """The blocks that are marked as done and read back as they were written."""
    sound, done, size = [], file.done(), os.fstat(file.descriptor).st_size
    with _reading(file.path):
        for count, block in enumerate(done, 1):
            if file.holds(block):
                sound.append(block)
            progress("verifying", size * count // len(done), size)
    return sound


def _check_unchanged(source: FeatureSource, made_from: dict[str, Any]) -> None:
    try:
        unchanged = json.loads(json.dumps(source.identity)).items() <= made_from.items()
    except OSError:
        unchanged = False
    if not unchanged:
        raise InputError(f"{source.path}: the file changed while it was read; start again when it is complete")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn a read error into `Stopped`: a failing disk or network is no fault of the input."""
    try:
        yield
    except OSError as error:
        why = error.strerror or error
        raise Stopped(f"{path}: cannot be read ({why}); run the same command again when it can") from None


# --- computing regions, here or in other processes ----------------------------------------------------------------


def _converted(
    source: FeatureSource, file: FeatureFile, blocks: list[int], workers: int
) -> Iterator[tuple[int, Iterator[ImageRegions]]]:
    """Each block's number and regions, in order."""
    parts = (file.index[file.rows(block)] for block in blocks)
    if workers == 1 or len(blocks) < 2:
        for block, index in zip(blocks, parts, strict=True):
            yield block, _regions(source, index)
        return
    pool = ProcessPoolExecutor(min(workers, len(blocks)), get_context("spawn"), _prepare_worker)
    try:
        for block, regions in zip(blocks, pool.map(_all_regions, repeat(source), parts), strict=True):
            yield block, iter(regions)
    except BrokenProcessPool:
        raise Stopped("a worker was killed; run the same command again, it continues") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _regions(source: FeatureSource, index: FeatureIndex) -> Iterator[ImageRegions]:
    with _reading(source.path):
        yield from source.images(index)


def _all_regions(source: FeatureSource, index: FeatureIndex) -> list[ImageRegions]:
    return list(_regions(source, index))


def _prepare_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process ends its workers itself
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this worker with the main process, which cannot end its workers when it is killed."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
