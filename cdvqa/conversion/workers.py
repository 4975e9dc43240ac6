"""Work spread over processes that end with the one that started them."""

import os
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar, cast

from cdvqa.conversion.blocks import Interrupted
from cdvqa.errors import InputError

Task = TypeVar("Task")
Result = TypeVar("Result")


def results(work: Callable[[Task], Result], tasks: Sequence[Task], workers: int) -> Generator[Result]:
    """The results of `work` for each task: in order with one worker, else as they come from spawned processes.

    To be closed (`contextlib.closing`), which ends the processes.

    Raises:
        InputError: as raised by `work`; the other workers are ended.
        Interrupted: a worker was killed.
    """
    if workers == 1 or len(tasks) < 2:
        yield from map(work, tasks)
        return
    context, waiting = get_context("spawn"), iter(tasks)
    processes: dict[Connection, Any] = {}
    try:
        for _ in range(min(workers, len(tasks))):
            ours, theirs = context.Pipe()
            processes[ours] = context.Process(target=_serve, args=(work, theirs), daemon=True)
            processes[ours].start()
            theirs.close()
            ours.send(next(waiting))
        busy = set(processes)
        while busy:
            for connection in cast(list[Connection], wait(list(busy))):
                result = _receive(connection, processes[connection])
                try:
                    connection.send(next(waiting))
                except StopIteration:
                    busy.remove(connection)
                except BrokenPipeError:  # it has died since: told when nothing comes back
                    pass
                yield result
    finally:
        for connection, process in processes.items():
            connection.close()
            process.terminate()
            process.join()


def _receive(connection: Any, process: Any) -> Any:
    try:
        result = connection.recv()
    except (EOFError, ConnectionResetError):
        process.join()
        what = f"a worker ended with exit code {process.exitcode}"
        raise Interrupted(f"{what}; run the same command again, it goes on where it was") from None
    if isinstance(result, InputError):
        raise result
    return result


def _serve(work: Callable[[Any], Any], connection: Connection) -> None:
    """Work on what is sent until nothing more comes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers itself
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            task = connection.recv()
        except (EOFError, OSError):
            return
        try:
            result = work(task)
        except InputError as error:
            result = error
        with suppress(OSError):  # a parent that was killed does not listen
            connection.send(result)


def _end_with_parent() -> None:
    """A parent that was killed cannot end its workers."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
