"""The feature file: finished or not, sound or not."""

import json

import numpy as np
import pytest

from cdvqa.cli import main
from cdvqa.data import write_features
from tests.data.toy import IMAGES, write_toy_features
from tests.tools.check.table import row
from tests.tools.features_tsv import convert, interrupt, sample_images, write_tsv


def test_an_image_without_features(check, world):
    keep = np.arange(IMAGES - 1)
    arrays = write_toy_features(world / "all.h5")
    write_features(world / "features.h5", **{name: values[keep] for name, values in arrays.items()})
    status, output = check()
    assert status == 1
    questions = json.loads((world / "vqacp_v2_train_questions.json").read_bytes())
    lost = [q["question_id"] for q in questions if q["image_id"] == arrays["image_id"][-1]]
    named = f"image {arrays['image_id'][-1]} (question {min(lost)}) "
    assert f"WRONG train: {world / 'features.h5'}: {named}" in output


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_features_that_are_not_finite(check, world, value, dtype):
    features = np.ones((IMAGES, 3, 8), dtype)
    features[4, 1, 2] = value
    arrays = write_toy_features(world / "features.h5", features=features)
    status, output = check()
    assert status == 1 and row(output, "region features")[1] == "unusable"
    assert f"WRONG region features: image {arrays['image_id'][4]} " in output and "NaN or infinite" in output


def test_boxes_in_pixels(check, world):
    write_toy_features(world / "features.h5", boxes=np.full((IMAGES, 3, 4), 200, np.float32))
    status, output = check()
    assert status == 1 and "WRONG boxes reach from 200 to 200 of the image's width" in output


def test_features_of_another_width_than_the_backbone(check, world):
    write_toy_features(world / "features.h5", features=np.ones((IMAGES, 3, 5), np.float32))
    status, output = check()
    assert status == 1 and "features are 5 wide, the backbone takes 8" in output


def test_an_image_that_stands_twice(check, world):
    write_toy_features(world / "features.h5", image_id=np.array([5, *range(1, IMAGES)]))
    status, output = check()
    assert status == 1 and row(output, "region features")[1] == "unusable"
    assert "WRONG region features: duplicate image 5" in output


def test_a_feature_file_in_the_making(check, world, monkeypatch, blocks_of_two):
    (world / "features.h5").unlink()
    tsv = write_tsv(world / "in.tsv", sample_images(7))
    with monkeypatch.context() as patch:
        interrupt(patch, after=2)
        assert convert(tsv, world / "features.h5", "--dtype=float32") == 130
    status, output = check()
    assert status == 1 and row(output, "region features")[1] == "missing"
    command = f"cdvqa prepare features --output {world / 'features.h5'} --input FILE --dtype float32"
    assert (
        f"note  {world / 'features.h5.part'}: an unfinished conversion; the same `cdvqa prepare features` command"
        in output
    )
    assert main(command.replace("FILE", str(tsv)).split()[1:]) == 0
    status, output = check()
    assert row(output, "region features")[1] == "ok" and ".part" not in output
