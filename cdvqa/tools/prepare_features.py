"""`cdvqa prepare features`: convert region features to the HDF5 file that cdvqa reads."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, Optional

from cdvqa.conversion.sources.source import FeatureFormat, FeatureSource, Progress
from cdvqa.errors import InputError


def features(
    output: str,
    input: Optional[str] = None,
    images: Optional[str] = None,
    format: FeatureFormat = "auto",
    extractor: Literal["grid"] = "grid",
    checkpoint: Optional[str] = None,
    dtype: Literal["float16", "float32"] = "float16",
    workers: int = 1,
    overwrite: bool = False,
) -> None:
    """Make the HDF5 file that `data.features` names, from published region features or from own images.

    Works in OUTPUT.part; after an interruption the same command resumes. A finished OUTPUT is verified.

    Args:
        output: HDF5 file to make.
        input: file or folder of published features; join several TSVs with `cat`.
        images: folder of images, in place of --input.
        format: of --input; auto goes by what it looks like.
        extractor: what computes features from --images; grid is 6 x 6 cells of a ResNet.
        checkpoint: ResNet of the extractor, a name on the Hugging Face hub or a folder.
        dtype: how features are stored; float16 takes half the room.
        workers: processes that extract features from --images.
        overwrite: replace a file made from another input or with other options.
    """
    from cdvqa.conversion.convert import convert_features

    if workers < 1:
        raise InputError(f"--workers {workers}: must be at least 1")
    if workers > 1 and images is None:
        raise InputError("--workers goes with --images; one process converts --input as fast as several")
    start = time.perf_counter()
    source = _source(input, images, format, checkpoint)
    with conversion_bar() as progress:
        done = convert_features(source, output, dtype, workers, overwrite, progress)
    count, regions, width = done.shape
    verb = "verified" if done.verified else f"made, resumed after {done.found:,} images" if done.found else "made"
    size, seconds = Path(output).stat().st_size, time.perf_counter() - start
    print(f"{output}: {verb}: {count:,} images, {regions} x {width} {done.dtype}, {size:,} bytes, {seconds:.1f} s")


def _source(input: str | None, images: str | None, format: FeatureFormat, checkpoint: str | None) -> FeatureSource:
    if (input is None) == (images is None):
        raise InputError(
            "name either --input, published features, or --images, a folder of images to extract them from"
        )
    if images is None:
        from cdvqa.conversion.sources import open_features

        if checkpoint:
            raise InputError("--checkpoint goes with --images; --input has its features already")
        assert input is not None
        return open_features(input, format)
    from cdvqa.conversion.sources.images import GridImages

    if format != "auto":
        raise InputError("--format goes with --input; --images is a folder of images")
    return GridImages(images, checkpoint) if checkpoint else GridImages(images)


@contextmanager
def conversion_bar() -> Iterator[Progress]:
    """A bar with bytes per second and remaining time for each step of a conversion, on a terminal only.

    The function that it yields may be called for every line: most calls only look at the clock.
    """
    from rich import progress as rich
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda step, done, total: None
        return
    columns = (rich.TextColumn("{task.description}"), rich.BarColumn(), rich.DownloadColumn())
    rates = (rich.TransferSpeedColumn(), rich.TimeRemainingColumn())
    with rich.Progress(*columns, *rates, console=console) as bar:
        steps: dict[str, rich.TaskID] = {}
        drawn = 0.0

        def progress(step: str, done: int, total: int) -> None:
            nonlocal drawn
            now = time.monotonic()
            if step not in steps:  # what an earlier call has done does not count in the rate
                steps[step] = bar.add_task(step, total=total, completed=done)
            elif now - drawn > 0.1 or done == total:
                bar.update(steps[step], completed=done)
                drawn = now

        yield progress
