"""`cdvqa prepare scenes | scenes-vs | easyvqa`: make an embedded world."""

import time
from collections.abc import Callable
from pathlib import Path


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


def _make(world: Callable[[Path, int], object], output: str, seed: int) -> None:
    start = time.perf_counter()
    world(Path(output), seed)
    size = sum(file.stat().st_size for file in Path(output).rglob("*") if file.is_file())
    print(f"{output}: made, {size:,} bytes, {time.perf_counter() - start:.1f} s")
