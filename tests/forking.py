"""`cdvqa ARGS` in processes of their own, forked from one that has imported everything: imports outlast a tiny run."""

import multiprocessing
import os
import random
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import cycle
from pathlib import Path

from lightning_utilities.core.rank_zero import rank_zero_only

from cdvqa.cli import main
from cdvqa.runs.folder import Run
from tests.killing import logged

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.forking", "tests.witness", "cdvqa.cli.training"])
HOLD = "--trainer.callbacks+=tests.faults.Hold"  # of a run that is to be killed at some step, and of its likes
# Each worker of pytest has ports of its own, below those that the system gives to connections (from 32768 on): what
# is free when it is chosen is free when it is bound. The order differs, for the sake of a second pytest.
FIRST_PORT = 20000 + 200 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
PORTS = cycle(random.Random().sample(range(FIRST_PORT, FIRST_PORT + 200), 200))


class Forked:
    """A command on one process, or on several that train together as if Lightning had started them."""

    def __init__(self, args: Sequence[str], processes: int = 1) -> None:
        self.output, self.errors = (tempfile.NamedTemporaryFile() for _ in range(2))  # noqa: SIM115
        place = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
        self.processes = []
        for rank in range(processes):
            environment = os.environ | place | {"LOCAL_RANK": str(rank)} if processes > 1 else dict(os.environ)
            given = (list(args), environment, os.getcwd(), self.output.name, self.errors.name)
            self.processes.append(SERVER.Process(target=run, args=given))
            self.processes[-1].start()

    @property
    def running(self) -> bool:
        return self.processes[0].is_alive()

    def kill(self) -> None:
        for process in self.processes:
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(process.pid, signal.SIGKILL)

    def wait(self, seconds: float = 240) -> tuple[int, str]:
        """The first process's exit status (-9 if it was killed) and what all wrote to stderr; all have ended then."""
        end = time.monotonic() + seconds
        for process in self.processes:
            process.join(end - time.monotonic())
            if process.is_alive():
                self.kill()
                raise TimeoutError(Path(self.errors.name).read_text())
        return self.processes[0].exitcode, Path(self.errors.name).read_text()


def run(args: list[str], environment: dict[str, str], folder: str, output: str, errors: str) -> None:
    """In the new process."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for descriptor, file in ((1, output), (2, errors)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_APPEND), descriptor)
    sys.argv = ["cdvqa", *args]
    rank_zero_only.rank = int(environment.get("LOCAL_RANK", 0))  # Lightning has set it at its import
    sys.exit(main(args))


def fork(args: Sequence[str], processes: int = 1, kill_when: Callable[[], bool] | None = None) -> tuple[int, str]:
    """Exit status and stderr of `cdvqa ARGS`; -9 if it was killed, as soon as `kill_when` was true."""
    forked = Forked(args, processes)
    while kill_when is not None and forked.running:
        if kill_when():
            forked.kill()
            break
        time.sleep(0.002)
    return forked.wait()


def kill_at(args: Sequence[str], folder: Path, step: int, processes: int = 1) -> None:
    """Kill a run, with `HOLD` among its arguments, as soon as it has logged this step; it never gets far beyond."""
    held = [*args, f"--trainer.callbacks.step={step + 3}"]
    status, errors = fork(held, processes, kill_when=lambda: logged(folder / "metrics.csv", step))
    assert status == -signal.SIGKILL, errors
    assert Run(folder).exists and not Run(folder).finished


def free_port() -> str:
    """A port that nobody has bound."""
    for port in PORTS:
        with socket.socket() as sock, suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return str(port)
