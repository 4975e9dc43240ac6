"""Latency and peak memory of networks on this machine."""

import multiprocessing
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from cdvqa.data.batch import VQABatch

INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "asimd", "asimddp", "i8mm")
Batch = TypeVar("Batch")
STATUS = Path("/proc/self/status")


def instructions() -> list[str]:
    """Which of `INSTRUCTIONS`, those that speed up matrix products, this processor has; none where it is unknown."""
    try:
        flags = re.search(r"^(?:flags|Features)\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        return []
    return [name for name in INSTRUCTIONS if flags and name in flags[1].split()]


def latencies(
    runtimes: Mapping[str, Callable[[Batch], object]], batches: Sequence[Batch], repeats: int = 7
) -> dict[str, list[float]]:
    """Milliseconds that each runtime takes for each batch: medians over interleaved repeats, after one warm-up.

    Args:
        runtimes: by name.
        batches: what each runtime is called with, such as batches of 1, 8 and 64 questions.
        repeats: timed calls of each runtime with each batch.
    """
    taken: dict[str, list[list[float]]] = {name: [[] for _ in batches] for name in runtimes}
    with torch.inference_mode():
        for _ in range(1 + repeats):
            for number, batch in enumerate(batches):
                for name, runtime in runtimes.items():
                    begin = time.perf_counter()
                    runtime(batch)
                    taken[name][number].append(1000 * (time.perf_counter() - begin))
    return {name: [float(np.median(times[1:])) for times in of_batches] for name, of_batches in taken.items()}


def peak_memory(make: Callable[[], Callable[[VQABatch], object]], batches: Sequence[VQABatch]) -> list[float] | None:
    """Peak memory in bytes of a network with each batch, less that of a process that has only loaded the libraries.

    Args:
        make: makes the runtime; it is pickled and called in a process of its own.
        batches: such as of 1, 8 and 64 questions.

    Returns:
        One number for each batch; None without Linux's /proc.
    """
    if not STATUS.is_file():
        return None
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peaks, (make, batches, torch.get_num_threads()))


def _peaks(make: Callable[[], Callable[[VQABatch], object]], batches: Sequence[VQABatch], threads: int) -> list[float]:
    torch.set_num_threads(threads)
    before = _memory("VmRSS")
    runtime, peaks = make(), []
    with torch.inference_mode():
        for batch in batches:
            Path("/proc/self/clear_refs").write_text("5")  # resets the peak
            runtime(batch)
            peaks.append(_memory("VmHWM") - before)
    return peaks


def _memory(field: str) -> float:
    found = re.search(rf"^{field}:\s*(\d+) kB", STATUS.read_text(), re.MULTILINE)
    assert found is not None
    return 1024.0 * int(found[1])
