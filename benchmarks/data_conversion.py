"""`cdvqa prepare features` on a synthetic bottom-up TSV, against the usual script and against the bytes alone."""

import base64
import csv
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path

import h5py
import numpy as np

from benchmarks.record import Record, Times, interleave
from cdvqa.cli import main

COLUMNS = ("image_id", "width", "height", "num_boxes", "boxes", "features")
REGIONS, WIDTH = 36, 2048
PIECE = 1 << 22  # bytes read at once
NOTE = (
    "Conversion: CPU is user and system time of the whole command, reading the TSV's header and syncing to disk "
    "included, imports excluded. The limit reads the TSV and writes the bytes of the HDF5 file through reused buffers, "
    "without syncing. The usual script uses csv.DictReader, base64 and `dataset[i] = …`, also without syncing. MB/s "
    "are bytes of the TSV by wall clock, from the start of a new process until the data are on disk, for the command "
    "and for the copy. Peak memory is that of such a process, imports included."
)
# Runs a command and prints its peak memory in KiB: a small process starts it, for the peak counts from before the exec.
LAUNCHER = """import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"""


def measure(folder: Path, images: int = 1200, repeats: int = 5) -> list[Record]:
    tsv, half = folder / "all.tsv", folder / "half.tsv"
    write_tsv(tsv, images)
    write_tsv(half, images // 2)
    os.sync()
    times = interleave(
        {
            "fp32": partial(convert, tsv, folder / "fp32.h5", "--dtype=float32", "--overwrite"),
            "fp16": partial(convert, tsv, folder / "fp16.h5", "--dtype=float16", "--overwrite"),
            "command": partial(command, tsv, folder / "command.h5"),
            "usual": partial(usual_script, tsv, folder / "usual.h5", images),
            "bytes fp32": partial(move_bytes, tsv, folder / "bytes", images, 4),
            "bytes fp16": partial(move_bytes, tsv, folder / "bytes", images, 2),
            "copy": partial(copy, tsv, folder / "copy.tsv"),
        },
        repeats,
    )
    check_same(folder / "fp32.h5", folder / "usual.h5")
    lesser, peak = (command(path, folder / "command.h5") for path in (half, tsv))
    note = f"{images:,} images against {images // 2:,}"
    return [
        *cpu_time(times, images),
        wall_time(times, tsv.stat().st_size / 1e6),
        Record("TSV to fp32, peak memory", peak, "GB", against=None, goal="<= 1"),
        Record("TSV to fp32, peak memory with twice the images", peak, "GB", lesser, goal="<= 1.05", note=note),
    ]


def cpu_time(times: dict[str, Times], images: int) -> list[Record]:
    cpu = {name: of.cpu_median for name, of in times.items()}
    whole, bare = cpu["fp32"], cpu["bytes fp32"]
    return [
        Record("TSV to fp32, CPU beside the bare bytes", whole, "s", cpu["usual"], bare, "limit", "<= 6"),
        Record("TSV to fp16, CPU beside the bare bytes", cpu["fp16"], "s", None, cpu["bytes fp16"], "limit"),
        Record(
            "TSV to fp32, speed beside the usual script",
            images / whole,
            "images/CPU s",
            images / cpu["usual"],
            images / bare,
            goal=">= 5",
        ),
    ]


def wall_time(times: dict[str, Times], megabytes: float) -> Record:
    speed = {name: megabytes / of.median for name, of in times.items()}
    note = f"spread {times['command'].spread:.0%}, of the copy {times['copy'].spread:.0%}"
    name = "TSV to fp32, beside copying the file"
    return Record(name, speed["command"], "MB/s", speed["usual"], speed["copy"], "limit", note=note)


def write_tsv(path: Path, images: int) -> None:
    rng = np.random.default_rng(0)
    with path.open("wb") as file:
        for image in range(images):
            boxes = rng.random((REGIONS, 4), np.float32) * 480
            features = rng.standard_exponential((REGIONS, WIDTH), np.float32)
            encoded = (base64.b64encode(array.data) for array in (boxes, features))
            file.write(b"\t".join((b"%d\t640\t480\t%d" % (image, REGIONS), *encoded)) + b"\n")


def convert(tsv: Path, output: Path, *options: str) -> None:
    with redirect_stdout(StringIO()):
        code = main(["prepare", "features", "--input", str(tsv), "--output", str(output), *options])
    if code:
        raise RuntimeError(f"cdvqa prepare features ended with {code}")


def command(tsv: Path, output: Path) -> float:
    """Run it in a new process; return the peak memory in GB."""
    options = f"--input={tsv}", f"--output={output}", "--dtype=float32", "--overwrite"
    arguments = [sys.executable, "-c", LAUNCHER, sys.executable, "-m", "cdvqa", "prepare", "features", *options]
    return int(subprocess.run(arguments, check=True, capture_output=True, text=True).stdout) * 1024 / 1e9


def usual_script(tsv: Path, output: Path, images: int) -> None:
    csv.field_size_limit(sys.maxsize)
    with tsv.open(newline="") as lines, h5py.File(output, "w") as file:
        features = file.create_dataset("features", (images, REGIONS, WIDTH), "f")
        boxes = file.create_dataset("boxes", (images, REGIONS, 4), "f")
        for row, item in enumerate(csv.DictReader(lines, COLUMNS, delimiter="\t")):
            scale = np.array([item["width"], item["height"]] * 2, np.float32)
            boxes[row] = decoded(item["boxes"]).reshape(REGIONS, 4) / scale
            features[row] = decoded(item["features"]).reshape(REGIONS, WIDTH)


def decoded(field: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(field), np.float32)


def move_bytes(tsv: Path, output: Path, images: int, bytes_per_number: int) -> None:
    piece, image = bytearray(PIECE), bytearray(REGIONS * (bytes_per_number * WIDTH + 16))
    with tsv.open("rb", buffering=0) as source, output.open("wb", buffering=0) as target:
        while source.readinto(piece):
            pass
        for _ in range(images):
            target.write(image)


def copy(tsv: Path, output: Path) -> None:
    with tsv.open("rb") as source, output.open("wb") as target:
        shutil.copyfileobj(source, target, PIECE)
        os.fsync(target.fileno())


def check_same(ours: Path, usual: Path) -> None:
    """Check that both wrote the same numbers."""
    for name in ("features", "boxes"):
        for left, right in zip(rows(ours, name), rows(usual, name), strict=True):
            np.testing.assert_array_equal(left, right)


def rows(path: Path, name: str) -> Iterator[np.ndarray]:
    with h5py.File(path) as file:
        yield from file[name]
