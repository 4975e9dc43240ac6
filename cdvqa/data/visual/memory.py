"""Keeping data in memory, where there is enough of it."""

import os
import sys
from pathlib import Path

from cdvqa.errors import InputError


def announce_cache(path: Path, needed: int, what: str) -> None:
    """Say how many bytes of `path` are about to be kept in this process (only the first one of a machine speaks).

    Args:
        path: file or folder.
        needed: bytes.
        what: what happens to them, such as `reading {} bytes into memory`.

    Raises:
        InputError: so much memory is not available.
    """
    available = available_memory()
    if needed > available:
        raise InputError(
            f"{path}: takes {needed:,} bytes of memory and {available:,} are available; use --data.cache none"
        )
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(f"{path}: {what.format(f'{needed:,}')}", file=sys.stderr, flush=True)


def available_memory() -> int:
    """Bytes that can be had without swapping."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):  # not Linux
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
