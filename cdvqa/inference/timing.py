"""How long networks take on this machine, and how much memory."""

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
Answering = Callable[[VQABatch], object]
Asked = TypeVar("Asked")
STATUS = Path("/proc/self/status")


def instructions() -> list[str]:
    """Those of `INSTRUCTIONS`, which matter for matrix products, that this processor has; none where it cannot say."""
    try:
        flags = re.search(r"^(?:flags|Features)\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        return []
    return [name for name in INSTRUCTIONS if flags and name in flags[1].split()]


def latencies(
    runtimes: Mapping[str, Callable[[Asked], object]], batches: Sequence[Asked], repeats: int = 7
) -> dict[str, list[float]]:
    """Milliseconds that each runtime takes for each batch: medians of interleaved repeats, after one that is left out.

    Args:
        runtimes: by name.
        batches: such as of 1, 8 and 64 questions; what each runtime is called with.
        repeats: of each.
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


def peak_memory(make: Callable[[], Answering], batches: Sequence[VQABatch]) -> list[float] | None:
    """Bytes that a network and each batch take together at their peak, beyond a process that has only its libraries.

    Args:
        make: makes the runtime; it is pickled for a process of its own.
        batches: such as of 1, 8 and 64 questions.

    Returns:
        One number for each batch; None where the system does not say.
    """
    if not STATUS.is_file():
        return None
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peaks, (make, batches, torch.get_num_threads()))


def _peaks(make: Callable[[], Answering], batches: Sequence[VQABatch], threads: int) -> list[float]:
    torch.set_num_threads(threads)
    before = _memory("VmRSS")
    runtime, peaks = make(), []
    with torch.inference_mode():
        for batch in batches:
            Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
            runtime(batch)
            peaks.append(_memory("VmHWM") - before)
    return peaks


def _memory(field: str) -> float:
    found = re.search(rf"^{field}:\s*(\d+) kB", STATUS.read_text(), re.MULTILINE)
    assert found is not None
    return 1024.0 * int(found[1])
