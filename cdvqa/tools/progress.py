"""Progress bars of the tools."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

INTERVAL = 0.1  # seconds between two drawings


@contextmanager
def progress_bar() -> Iterator[Callable[[str, int, int], None]]:
    """A bar with rate and remaining time for each step of the work, on a terminal only.

    What it yields may be called for every line: most calls only look at the clock.
    """
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
    from rich.progress import TransferSpeedColumn as SpeedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda step, done, total: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), SpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        steps: dict[str, TaskID] = {}
        drawn = 0.0

        def report(step: str, done: int, total: int) -> None:
            nonlocal drawn
            now = time.monotonic()
            if step not in steps:  # what an earlier call has done does not count in the rate
                steps[step] = bar.add_task(step, total=total, completed=done)
            elif now - drawn > INTERVAL or done == total:
                bar.update(steps[step], completed=done)
                drawn = now

        yield report
