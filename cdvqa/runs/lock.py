"""One writer per run."""

import json
import os
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from cdvqa.errors import InputError

BEAT = 30.0  # seconds between two signs of life
STALE = 300.0  # seconds without one after which the writer counts as dead
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class RunLock:
    """Held while a process writes into a run folder: a file with host, boot and process, touched every 30 s.

    A lock counts as abandoned after five minutes without a sign of life, or at once if its process ran on this host
    since its last start and is gone. Used as a context manager.

    Attributes:
        created: folders that did not exist before; empty ones are removed at the end, and no others.

    Raises:
        InputError: another process writes into the folder.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / ".lock"
        self.created = [path for path in (folder, *folder.parents) if not path.exists()]
        self._end = threading.Event()

    def __enter__(self) -> "RunLock":
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if not self._create():
                self._remove_abandoned()
                if not self._create():
                    raise InputError(f"{self.path.parent}: another process has just begun to write here")
        except OSError as error:
            remedy = "name another folder with --trainer.default_root_dir"
            raise InputError(f"{self.path.parent}: cannot be written ({error.strerror}); {remedy}") from error
        threading.Thread(target=self._beat, daemon=True).start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._end.set()
        with suppress(FileNotFoundError):
            if read(self.path) == ourselves():
                self.path.unlink()
        for folder in self.created:
            with suppress(OSError):  # not empty
                folder.rmdir()

    def _create(self) -> bool:
        with suppress(FileExistsError), self.path.open("x", encoding="utf-8") as file:
            json.dump(ourselves(), file)
            return True
        return False

    def _beat(self) -> None:
        while not self._end.wait(BEAT):
            with suppress(OSError):
                os.utime(self.path)

    def _remove_abandoned(self) -> None:
        try:
            found = self.path.stat()
        except FileNotFoundError:  # its writer has just ended
            return
        if writer := writer_of(self.path.parent):
            raise InputError(f"{self.path.parent}: {writer} is writing this run; wait for it or stop it")
        aside = self.path.with_name(f".lock.{os.getpid()}")
        with suppress(FileNotFoundError):  # another process was faster
            self.path.rename(aside)
            if aside.stat().st_ino != found.st_ino:  # and this is its lock
                aside.rename(self.path)
            aside.unlink(missing_ok=True)


def writer_of(folder: Path) -> str:
    """The process that writes into a run folder now, in words; empty where there is none, or its lock is abandoned."""
    path = folder / ".lock"
    try:
        age, holder = time.time() - path.stat().st_mtime, read(path)
    except FileNotFoundError:
        return ""
    if age >= STALE or is_gone(holder):
        return ""
    return f"process {holder.get('pid')} on {holder.get('host')} (last sign of life {max(age, 0):.0f} s ago)"


def ourselves() -> dict[str, Any]:
    """Host, boot and process."""
    boot = BOOT_ID.read_text().strip() if BOOT_ID.is_file() else ""
    return {"host": socket.gethostname(), "boot": boot, "pid": os.getpid()}


def read(path: Path) -> dict[str, Any]:
    """Who holds a lock; empty while that is being written."""
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}


def is_gone(holder: dict[str, Any]) -> bool:
    """Whether the holder ran here since the last start of this machine, and runs no longer."""
    here = ourselves()
    if (holder.get("host"), holder.get("boot")) != (here["host"], here["boot"]) or not here["boot"]:
        return False
    try:
        os.kill(int(holder["pid"]), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, KeyError, ValueError):
        return False
    return False
