"""`cdvqa prepare`: make an embedded world, or convert region features to HDF5."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ActionYesNo, ArgumentParser, auto_cli

from cdvqa.data.tsv import Report


class Parser(ArgumentParser):
    """Makes `--overwrite` a flag, as it is in `cdvqa fit`."""

    def add_argument(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        if kwargs.get("type") is bool:
            kwargs |= {"action": ActionYesNo}
            del kwargs["type"]
        return super().add_argument(*args, **kwargs)


def run(args: list[str]) -> None:
    """Run one of the subcommands."""
    commands: dict[str, Any] = {"scenes": scenes, "scenes-vs": scenes_vs, "easyvqa": easyvqa, "features": features}
    auto_cli(commands, args=args[1:], prog="cdvqa prepare", as_positional=False, parser_class=Parser)


def scenes(output: str = "data/scenes", seed: int = 0) -> None:
    """Make `scenes`: drawn images and questions with shifted answer priors, in the files of VQA-CP v2.

    Args:
        output: folder to make.
        seed: seed of everything that is drawn.
    """
    from cdvqa.worlds import make_scenes

    _make(make_scenes, output, seed)


def scenes_vs(output: str = "data/scenes-vs", seed: int = 0) -> None:
    """Make `scenes-vs`: the same world with the planted shortcuts and the test sets of VQA-VS.

    Args:
        output: folder to make.
        seed: seed of everything that is drawn.
    """
    from cdvqa.worlds import make_scenes_vs

    _make(make_scenes_vs, output, seed)


def easyvqa(output: str = "data/easyvqa", seed: int = 0) -> None:
    """Make `easyvqa`: the images and questions of the package easy-vqa, in the files of VQA-CP v2.

    Args:
        output: folder to make.
        seed: seed of the split.
    """
    from cdvqa.worlds import make_easyvqa

    _make(make_easyvqa, output, seed)


def features(
    input: str,
    output: str,
    format: Literal["auto", "bottom-up", "lxmert"] = "auto",
    dtype: Literal["float16", "float32"] = "float16",
    overwrite: bool = False,
) -> None:
    """Convert a TSV of region features to the HDF5 file that `data.features` names.

    Works in OUTPUT.part; after an interruption the same command goes on where it was. A finished OUTPUT is verified.

    Args:
        input: TSV as published with bottom-up attention (6 fields) or LXMERT (10 fields); join several with `cat`.
        output: HDF5 file to make.
        format: columns of the TSV; auto goes by the number of fields.
        dtype: how features are stored; float16 takes half the room.
        overwrite: replace a file made from another input or with other options.
    """
    from cdvqa.data.conversion import convert_features

    start = time.perf_counter()
    with progress_bar() as report:
        done = convert_features(input, output, format, dtype, overwrite, report)
    images, regions, width = done.shape
    verb = "verified" if done.verified else f"made, going on after {done.found:,} images" if done.found else "made"
    size, seconds = Path(output).stat().st_size, time.perf_counter() - start
    print(f"{output}: {verb}: {images:,} images, {regions} x {width} {done.dtype}, {size:,} bytes, {seconds:.1f} s")


def _make(world: Callable[[Path, int], object], output: str, seed: int) -> None:
    start = time.perf_counter()
    world(Path(output), seed)
    size = sum(file.stat().st_size for file in Path(output).rglob("*") if file.is_file())
    print(f"{output}: made, {size:,} bytes, {time.perf_counter() - start:.1f} s")


@contextmanager
def progress_bar() -> Iterator[Report]:
    """A bar with rate and remaining time for each step of the work, on a terminal only."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
    from rich.progress import TransferSpeedColumn as SpeedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), SpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        steps: dict[str, TaskID] = {}

        def report(step: str, done: int, total: int) -> None:
            if step not in steps:
                steps[step] = bar.add_task(step, total=total)
            bar.update(steps[step], completed=done)

        yield report
