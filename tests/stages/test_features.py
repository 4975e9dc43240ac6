"""Features of another kind are never accepted silently."""

import hashlib
import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdvqa.data.visual.features import RegionFeatures
from cdvqa.data.visual.fingerprint import measure
from cdvqa.sparsity import Subnetwork
from cdvqa.stages.features import differences
from tests.conftest import the_run

Command = Callable[..., int]


def sample(seed: int, images: int = 40, regions: int = 36) -> tuple[np.ndarray, np.ndarray]:
    """Features of rectified units, and boxes in no order."""
    rng = np.random.default_rng(seed)
    low, size = rng.random((images, regions, 2)) * 0.7, 0.1 + rng.random((images, regions, 2)) * 0.2
    return np.maximum(rng.normal(0, 2, (images, regions, 64)), 0), np.concatenate([low, low + size], 2)


def by_area(features: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(-np.prod(boxes[..., 2:] - boxes[..., :2], axis=2), axis=1)[..., None]
    return np.take_along_axis(features, order, 1), np.take_along_axis(boxes, order, 1)


CHANGES: dict[str, tuple[Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]], str]] = {
    "vectors of length 1": (lambda f, b: (f / np.linalg.norm(f, axis=2, keepdims=True), b), "mean norm"),
    "half as large": (lambda f, b: (f / 2, b), "mean norm"),
    "boxes in pixels": (lambda f, b: (f, b * 480), "boxes: max"),
    "boxes from -1 to 1": (lambda f, b: (f, 2 * b - 1), "boxes: min"),
    "sorted by area": (by_area, "order of regions: share where area falls"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_features_of_another_kind_are_detected(change: str):
    make, what = CHANGES[change]
    found = [name for name, _, _ in differences(measure(*sample(0)), measure(*make(*sample(1))))]
    assert what in found, found


@given(st.integers(0, 2**32 - 1), st.integers(1, 64), st.integers(4, 36))
def test_other_images_with_features_of_the_same_kind_are_not(seed: int, images: int, regions: int):
    ours = measure(*sample(seed, images, regions))
    assert list(differences(measure(*sample(0)), ours)) == []
    halves, boxes = sample(seed, images, regions)
    assert list(differences(measure(halves.astype(np.float16), boxes), ours)) == []


def test_extractors_are_compared_where_both_are_known():
    known = measure(*sample(0)) | {"extractor": "grid 6 x 6"}
    assert list(differences(known, measure(*sample(0)))) == list(differences(known, known)) == []
    assert list(differences(measure(*sample(0)) | {"extractor": None}, known)) == []
    other = known | {"extractor": "bottom-up"}
    assert list(differences(other, known)) == [("extractor", "'bottom-up'", "'grid 6 x 6'")]
    assert list(differences({}, known)) == []  # a network without a fingerprint


@pytest.fixture
def files(scenes: Path, tmp_path: Path) -> dict[str, Path]:
    """Feature files of the small world: the same in half precision, and one from somewhere else."""
    made = {}
    for name in ("same", "other"):
        made[name] = Path(shutil.copy(scenes / "features.h5", tmp_path / f"{name}.h5"))
    with h5py.File(made["other"], "r+") as file:
        file["features"][:] = 3 * file["features"][:]
    with h5py.File(made["same"], "r+") as file:
        halves = file["features"][:].astype(np.float16 if file["features"].dtype == np.float32 else np.float32)
        del file["features"]
        file["features"] = halves
    assert RegionFeatures(made["same"]).dtype != RegionFeatures(scenes / "features.h5").dtype
    return made


def warned(cdvqa: Command, *args: Any) -> list[str]:
    """What a command says of features; it succeeds."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert cdvqa(*args) == 0
    return [str(warning.message) for warning in caught if "region features" in str(warning.message)]


def test_every_command_that_uses_a_network_warns(cdvqa: Command, files: dict[str, Path]):
    assert warned(cdvqa, "fit", "stage1_bce.yaml") == []
    commands: list[tuple[str, ...]] = [
        ("fit", "stage2_bce.yaml", "--overwrite"),
        ("fit", "stage1_bce.yaml", "--ckpt_path=last"),
        ("validate", "stage1_bce.yaml"),
        ("test", "stage1_bce.yaml", "--ckpt_path=last"),
        ("predict", "stage1_bce.yaml"),
    ]
    for command in commands:
        assert warned(cdvqa, *command, f"--data.features={files['same']}") == []
        (message,) = warned(cdvqa, *command, f"--data.features={files['other']}")
        source = "last.ckpt" if "--ckpt_path=last" in command else "model.safetensors"
        assert source in message
        assert f"was trained on other region features than those in {files['other']}: mean norm " in message
        assert message.count("\n") == 0 and "--data.features" in message

    taught = ("fit", "stage1_bce.yaml", "--model.objective=genb_lite", f"--model.teacher={the_run('stage1_bce')}")
    (message,) = warned(cdvqa, *taught, f"--data.features={files['other']}")
    assert "model.safetensors: was trained on other region features" in message


def test_the_fingerprint_is_in_the_runs_record_and_in_the_network(cdvqa: Command, scenes: Path):
    assert cdvqa("fit", "stage1_bce.yaml") == 0
    fingerprint = RegionFeatures(scenes / "features.h5").fingerprint()
    assert {"norm", "boxes", "order"} <= fingerprint.keys()
    assert json.loads((the_run("stage1_bce") / "run.json").read_text())["data"]["features"] == fingerprint
    assert Subnetwork.load(the_run("stage1_bce") / "model.safetensors").metadata["features"] == fingerprint


def test_a_network_refuses_other_text_behind_its_questions(cdvqa: Command, scenes: Path, tmp_path: Path, capsys):
    extra, own, mine = (tmp_path / name for name in ("extra.json", "own.json", "mine.json"))
    questions = json.loads((scenes / "vqacp_v2_train_questions.json").read_text())
    extra.write_text(json.dumps([{"question_id": question["question_id"], "ocr": ["stop"]} for question in questions]))
    own.write_text(json.dumps([{"question_id": 1, "ocr": ["go"]}]))
    mine.write_text(json.dumps([questions[0] | {"question_id": 1}]))
    with_text, with_other = f"--data.extra_text={extra}", f"--data.extra_text={own}"
    assert cdvqa("fit", "stage1_bce.yaml", "updn.yaml", with_text, "--trainer.max_steps=1") == 0
    (network,) = Path("logs").rglob("model.safetensors")
    digest = hashlib.sha256(extra.read_bytes()).hexdigest()
    assert Subnetwork.load(network).metadata["extra_text"] == digest
    predict = ("predict", "stage1_bce.yaml", "updn.yaml", f"--ckpt_path={network}")
    assert cdvqa(*predict, with_text) == 0
    assert cdvqa(*predict, f"--data.questions={mine}", with_other) == 0  # own questions have a file of their own
    capsys.readouterr()
    cases = (([], "no extra text"), ([with_other], "the extra text "), ([f"--data.questions={mine}"], "no extra text"))
    for flags, found in cases:
        assert cdvqa(*predict, *flags) == 2
        error = capsys.readouterr().err
        assert f"{network}: trained with the extra text {digest[:12]}, and given {found}" in error.replace("\n", " ")
        assert "--data.extra_text" in error
