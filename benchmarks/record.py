"""What a benchmark measures, and where and with what it was measured."""

import operator
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch

from cdvqa.files import write_json
from cdvqa.inference.timing import instructions

FOLDER = Path(__file__).parent.parent / "docs" / "benchmarks"
COMPARISONS = {"<=": operator.le, ">=": operator.ge}


@dataclass(frozen=True)
class Record:
    """One row of a benchmark: cdvqa's figure, what it is compared with, and whether its goal is met."""

    name: str
    ours: float
    unit: str
    """Unit of `ours`, `baseline` and `limit`."""
    baseline: float | None = None
    """Time or rate of the usual way: the dense model, the usual script …"""
    limit: float | None = None
    """A physical limit: the memory pass, the bare read …"""
    against: Literal["baseline", "limit"] | None = "baseline"
    """What the ratio is taken against; None where the goal is about `ours` itself."""
    goal: str = ""
    """`<= x` or `>= x` for the ratio (or for `ours` where there is none); empty where a figure is only reported."""
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """ours / baseline or ours / limit."""
        reference = {"baseline": self.baseline, "limit": self.limit, None: None}[self.against]
        return self.ours / reference if reference else None

    @property
    def share(self) -> float | None:
        """The judged figure as a multiple of the goal's number."""
        if not self.goal:
            return None
        judged = self.ours if self.ratio is None else self.ratio
        return judged / float(self.goal.split()[1])

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None without a goal."""
        if self.share is None:
            return None
        return bool(COMPARISONS[self.goal.split()[0]](self.share, 1))


@dataclass(frozen=True)
class Times:
    """Seconds of every repeat."""

    wall: list[float]
    cpu: list[float]
    """CPU time of this process, all threads together."""

    @property
    def median(self) -> float:
        return statistics.median(self.wall)

    @property
    def best(self) -> float:
        return min(self.wall)

    @property
    def spread(self) -> float:
        """(slowest − fastest) / median, of wall seconds."""
        return (max(self.wall) - min(self.wall)) / self.median

    @property
    def cpu_median(self) -> float:
        return statistics.median(self.cpu)


def interleave(functions: dict[str, Callable[[], Any]], repeats: int, warmup: int = 1) -> dict[str, Times]:
    """Run competing functions alternately, so that other load on the machine affects all of them.

    Every other round runs backwards, so that no function always follows the same one. On a GPU each call is waited for.
    """
    times = {name: Times([], []) for name in functions}
    for turn in range(warmup + repeats):
        for name, function in list(functions.items())[:: -1 if turn % 2 else 1]:
            _wait()
            cpu, wall = time.process_time(), time.perf_counter()
            function()
            _wait()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            if turn >= warmup:
                times[name].wall.append(wall)
                times[name].cpu.append(cpu)
    return times


def write(topic: str, records: Sequence[Record], note: str = "") -> None:
    """Write docs/benchmarks/TOPIC.json and print the rows."""
    rows = [asdict(record) | {"ratio": record.ratio, "met": record.met} for record in records]
    content = {"topic": topic, "date": date.today().isoformat(), "note": note}
    write_json(FOLDER / f"{topic}.json", content | {"machine": machine(), "versions": versions(), "records": rows})
    for record in records:
        verdict = {True: "met", False: "NOT met", None: "reported"}[record.met]
        ratio = "" if record.ratio is None else f", ratio {record.ratio:.3g}"
        print(f"{record.name}: {record.ours:.4g} {record.unit}{ratio} {record.goal} ({verdict})")


def machine() -> dict[str, Any]:
    """The processor, the cores in use, memory, relevant instruction sets, and the GPU if there is one."""
    processor = _first_value("/proc/cpuinfo", "model name") or platform.processor() or platform.machine()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": processor,
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "memory_gib": round(memory, 1),
        "instruction_sets": instructions(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def versions() -> dict[str, str]:
    packages = {name: version(name) for name in ("torch", "numpy", "h5py", "cdvqa")}
    return {"python": platform.python_version()} | packages


def _first_value(path: str, key: str) -> str:
    """The value of the first `key : value` line of a file under /proc, or nothing where there is no such file."""
    lines = Path(path).read_text().splitlines() if Path(path).is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "")


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
