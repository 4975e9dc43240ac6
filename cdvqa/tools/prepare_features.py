"""`cdvqa prepare features`: convert region features to the HDF5 file that cdvqa reads."""

import time
from pathlib import Path
from typing import Literal

from cdvqa.tools.progress import progress_bar


def features(
    input: str,
    output: str,
    format: Literal["auto", "bottom-up", "lxmert"] = "auto",
    dtype: Literal["float16", "float32"] = "float16",
    overwrite: bool = False,
) -> None:
    """Convert a TSV of region features to the HDF5 file that `data.features` names.

    Works in OUTPUT.part; after an interruption the same command goes on where it was. A finished OUTPUT is verified.

    Args:
        input: TSV as published with bottom-up attention (6 fields) or LXMERT (10 fields); join several with `cat`.
        output: HDF5 file to make.
        format: columns of the TSV; auto goes by the number of fields.
        dtype: how features are stored; float16 takes half the room.
        overwrite: replace a file made from another input or with other options.
    """
    from cdvqa.data.conversion import convert_features

    start = time.perf_counter()
    with progress_bar() as report:
        done = convert_features(input, output, format, dtype, overwrite, report)
    images, regions, width = done.shape
    verb = "verified" if done.verified else f"made, going on after {done.found:,} images" if done.found else "made"
    size, seconds = Path(output).stat().st_size, time.perf_counter() - start
    print(f"{output}: {verb}: {images:,} images, {regions} x {width} {done.dtype}, {size:,} bytes, {seconds:.1f} s")
