"""Files that are either whole or absent."""

import errno
import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from cdvqa.errors import Stopped, chain

_HOST = re.sub(r"[^A-Za-z0-9-]", "_", socket.gethostname())  # process ids repeat on nodes that share a file system
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def write_atomically(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` on success, remove it on any error.

    The temporary file is flushed to disk before the rename, so that a crash leaves the old file or the new one.

    Raises:
        Stopped: the disk is full.
    """
    path = Path(path)
    temporary = path.with_name(f"{path.name}.{_HOST}.{os.getpid()}.tmp")
    try:
        with naming_full_disk(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def write_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`, which must not exist; rename it on success, remove it on any error.

    Raises:
        Stopped: the disk is full.
    """
    temporary = path.with_name(f"{path.name}.{_HOST}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with naming_full_disk(path):
            temporary.mkdir(parents=True)
            yield temporary
            temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files of `path` that killed processes left beside it."""
    for temporary in path.parent.glob(f"{path.name}.*.tmp"):
        temporary.unlink(missing_ok=True)


@contextmanager
def naming_full_disk(path: Path) -> Iterator[None]:
    """Replace a library's error about a full disk, while `path` is written, by one line.

    Raises:
        Stopped: the disk or the quota is full, or the file is larger than may be.
    """
    try:
        yield
    except Exception as error:
        if reason := full_disk(error):
            raise Stopped(f"{path}: {reason}; what was saved before is whole, make room") from error
        raise


def full_disk(error: BaseException) -> str:
    """The system's message on a full disk, or "": in torch a cause of other errors, in safetensors part of a text."""
    for cause in chain(error):
        in_text = re.search(r"\(os error (\d+)\)", str(cause))
        number = cause.errno if isinstance(cause, OSError) else int(in_text[1]) if in_text else None
        if number in FULL:
            return os.strerror(number)
    return ""


def write_json(path: str | Path, content: Any) -> None:
    """Write `content` as indented JSON, whole or not at all."""
    with write_atomically(path) as temporary:
        temporary.write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY) + b"\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file written by `write_json`."""
    return orjson.loads(Path(path).read_bytes())
