"""Fixtures shared by the whole suite."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Set before any library reads them: the suite never asks the network and runs one thread a process.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])  # for processes that tests start

import numpy as np
import pytest
from hypothesis import settings

from cdvqa.cli import main
from cdvqa.data.answers.vocabulary import AnswerVocabulary
from cdvqa.data.questions.official import read_questions
from cdvqa.worlds.scenes import SceneConstants, write_scenes

settings.register_profile("unhurried", deadline=None)  # a busy machine is no failure
settings.load_profile("unhurried")

CONF = Path(__file__).parent / "conf"
GOLDEN = Path(__file__).parent / "golden"
SLOW = (  # without a world
    "tests/benchmarks/",
    "tests/inference/test_graph.py",
    "tests/test_fuzzing.py",
    "tests/test_loading_processes.py",
    "tests/test_nodes.py",
    "tests/tools/test_prepare_images.py",
    "tests/tools/test_prepare_killed.py",
    "tests/test_wheel.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow what needs a world, and so trains on it, and `SLOW`: `make test FAST=1` leaves both out."""
    for item in items:
        if "scenes" in getattr(item, "fixturenames", ()) or item.nodeid.startswith(SLOW):
            item.add_marker("slow")


@pytest.fixture(autouse=True)
def own_meeting_point() -> Iterator[None]:
    """Lightning keeps the port where its processes met in the environment; the next ones would look for it there."""
    yield
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        os.environ.pop(name, None)


@pytest.fixture
def golden() -> Callable[[str], dict[str, np.ndarray]]:
    """Arrays computed with the authors' own functions: `golden("loss_bce")["c0_loss"]`."""

    def load(name: str) -> dict[str, np.ndarray]:
        with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as file:
            return dict(file)

    return load


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data that stays out of the repository; the test is skipped where it is absent."""
    folder = Path(os.environ.get("CDVQA_SHARED", Path(__file__).parents[2] / "shared"))
    if not folder.is_dir():
        pytest.skip("real VQA-VS questions and the BERT vocabulary are not here (set CDVQA_SHARED to their folder)")
    return folder


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small `scenes` world."""
    folder = tmp_path_factory.mktemp("worlds") / "scenes"
    write_scenes(folder, 0, SceneConstants(train_questions=400, id_questions=90, ood_questions=70))
    return folder


def overlay(world: Path, layout: str = "vqacp", train: tuple[str, str] | None = None) -> list[str]:
    """The flags that point a tiny run at `world`."""
    files = train or ("vqacp_v2_train_questions.json", "vqacp_v2_train_annotations.json")
    annotations = read_questions(*(world / file for file in files)).annotations
    answers = len(AnswerVocabulary.from_annotations(annotations))
    settings = {"name": world.name, "layout": layout, "root": str(world), "num_answers": str(answers)}
    return ["--config", str(CONF / "tiny.yaml"), *(f"--data.{key}={value}" for key, value in settings.items())]


def the_run(name: str, seed: int = 0, runs: str | Path = "logs/scenes/lxmert") -> Path:
    """The folder of the only run of this name, whatever its digest and the shares of its modalities."""
    folders = Path(runs).glob(f"*/seed{seed}")
    found = [path for path in folders if name in (own_name(path.parent), own_name(path.parent).partition("_L")[0])]
    assert len(found) == 1, f"{name}: {[str(path) for path in Path(runs).glob('*/*')]}"
    return found[0]


def last_error(capsys: pytest.CaptureFixture[str]) -> str:
    """The last line of stderr: what the user reads."""
    return capsys.readouterr().err.strip().splitlines()[-1]


def run_names(runs: str | Path = "logs/scenes/lxmert") -> set[str]:
    """The names of all runs, without their digests."""
    return {own_name(path) for path in Path(runs).iterdir()} if Path(runs).exists() else set()


def own_name(folder: Path) -> str:
    return folder.name.rpartition("-")[0]


@pytest.fixture
def cdvqa(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run a command in-process on the small world: `cdvqa("fit", "stage1_bce.yaml", "--seed_everything=1")`.

    Runs land in `logs/` of a fresh working folder.
    """
    monkeypatch.chdir(tmp_path)

    def run(command: str, *args: Any, world: list[str] | None = None) -> int:
        configs = [str(arg) for arg in args if str(arg).endswith(".yaml")]
        flags = [str(arg) for arg in args if not str(arg).endswith(".yaml")]
        first, rest = configs[:1], configs[1:]
        data = overlay(scenes) if world is None else world
        overlays = [part for name in rest for part in ("--config", str(CONF / name))]
        return main([command, *(["--config", first[0]] if first else []), *data, *overlays, *flags])

    return run
