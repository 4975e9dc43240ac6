"""Finds a data set's files: plain under the root, packed as FILE.gz or FILE.zip, or inside a downloaded zip archive."""

import gzip
import hashlib
import math
import zipfile
import zlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO, Any

from cdvqa.errors import InputError

# Both have `name`, `open("rb")` and `read_bytes()`; the text of a member is ARCHIVE.zip/MEMBER.
Source = Path | zipfile.Path


def locate(root: str | Path, name: str) -> Source:
    """Find a file by its path `name` under the root; see `find_file`.

    Raises:
        InputError: it is missing; archives that cannot be read are named.
    """
    found = find_file(root, name)
    if found is not None:
        return found
    broken = [str(archive.name) for archive in _archives(Path(root)) if _members(*_identity(archive)) is None]
    unread = f" ({', '.join(broken)} cannot be read: fetch it again)" if broken else ""
    raise InputError(
        f"{Path(root) / name}: no such file, plain, .gz, .zip or in a zip archive in {root}{unread}; "
        "--data.root must hold the official files under their names"
    )


def find_file(root: str | Path, name: str) -> Source | None:
    """`<root>/<name>`, `<name>.gz`, `<name>.zip`, or the member of a zip directly under the root; None if nowhere.

    A member matches by the whole of `name`, or else by its last part; archives are tried in order of their names.
    """
    path = Path(root) / name
    for plain in (path, path.with_name(f"{path.name}.gz")):
        if plain.is_file():
            return plain
    own = path.with_name(f"{path.name}.zip")
    archives = [*([own] if own.is_file() else []), *(archive for archive in _archives(Path(root)) if archive != own)]
    for wanted in (name, PurePosixPath(name).name):
        for archive in archives:
            for member in _members(*_identity(archive)) or ():
                if f"/{member}".endswith(f"/{wanted}"):
                    return zipfile.Path(str(archive), member)
    return None


def unpacked(source: Source) -> Iterator[bytes]:
    """Its unpacked bytes, in pieces.

    Raises:
        InputError: it is missing, damaged, no regular file, packed in a way that cannot be unpacked, or much larger
            than its packed size can mean (a bomb).
    """
    if isinstance(source, Path) and source.exists() and not source.is_file():
        raise InputError(f"{source}: not a regular file; give a file that can be read twice")
    read = 0
    try:
        most = _most(source)
        with source.open("rb") as file:
            packed = source.name.endswith(".gz")
            stream: gzip.GzipFile | IO[bytes] = gzip.GzipFile(fileobj=file) if packed else file
            while piece := stream.read(1 << 22):
                read += len(piece)
                if read > most:
                    raise InputError(f"{source}: unpacks to over {most:,} bytes, no question file does; fetch it again")
                yield piece
    except FileNotFoundError:
        raise InputError(f"{source}: no such file; check the path") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, gzip.BadGzipFile) as error:
        raise InputError(f"{source}: the archive is damaged ({error}); fetch it again") from None
    except (RuntimeError, NotImplementedError) as error:  # a password, a method of packing
        raise InputError(f"{source}: cannot be unpacked ({error}); unpack it yourself") from None
    except OSError as error:
        raise InputError(f"{source}: cannot be read ({error.strerror or error})") from None


def digest(source: Source) -> dict[str, Any]:
    """Bytes and SHA-256 of a file, unpacked: packing makes no difference. InputError if it cannot be read."""
    sha256, size = hashlib.sha256(), 0
    for piece in unpacked(source):
        sha256.update(piece)
        size += len(piece)
    return {"sha256": sha256.hexdigest(), "bytes": size}


def _most(source: Source) -> float:
    """Bytes that a file may unpack to: official files shrink to a twentieth, never to a hundredth."""
    if isinstance(source, zipfile.Path):
        packed = source.root.getinfo(source.at).compress_size
    elif source.name.endswith(".gz"):
        packed = source.stat().st_size
    else:
        return math.inf
    return (1 << 24) + 100 * packed


def _archives(root: Path) -> list[Path]:
    return sorted(root.glob("*.zip"))


def _identity(archive: Path) -> tuple[Path, int, int]:
    status = archive.stat()
    return archive, status.st_size, status.st_mtime_ns


@lru_cache(maxsize=64)
def _members(archive: Path, size: int, mtime_ns: int) -> list[str] | None:
    """Names of the files in an archive, listed once (image archives hold many); None if it cannot be read."""
    try:
        with zipfile.ZipFile(archive) as content:
            names = content.namelist()
    except (zipfile.BadZipFile, OSError):
        return None
    return [name for name in names if not name.endswith("/") and not name.startswith("__MACOSX/")]
