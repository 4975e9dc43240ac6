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
    write_toy_features(world / "features.h5")
    arrays = write_toy_features(world / "all.h5")
    write_features(world / "features.h5", **{name: values[keep] for name, values in arrays.items()})
    status, output = check()
    assert status == 1
    questions = json.loads((world / "vqacp_v2_train_questions.json").read_bytes())
    lost = [q["question_id"] for q in questions if q["image_id"] == arrays["image_id"][-1]]
    assert f"WRONG train: {len(lost)} questions on 1 images lack features" in output
    assert f"(first: question {min(lost)}, image {arrays['image_id'][-1]})" in output


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_features_that_are_not_finite(check, world, value, dtype):
    features = np.ones((IMAGES, 3, 8), dtype)
    features[4, 1, 2] = value
    arrays = write_toy_features(world / "features.h5", features=features)
    status, output = check()
    assert status == 1 and row(output, "region features")[1] == "ok"
    named = f"image {arrays['image_id'][4]} has NaN or infinite features"
    assert f"WRONG features of 12 sampled images: 1 are not finite; first {named}" in output
    assert ("(float16 ends at 65,504: keep such features as float32)" in output) == (
        dtype == np.float16 and value == np.inf
    )


def test_features_too_large_for_float16_are_told(check, world):
    write_toy_features(world / "features.h5", features=np.full((IMAGES, 3, 8), 70_000, np.float32))
    status, output = check()
    assert status == 0
    assert (
        "note  features of 12 sampled images are finite, 7e+04 to 7e+04, too large for float16: keep them as" in output
    )


def test_boxes_in_pixels(check, world):
    write_toy_features(world / "features.h5", boxes=np.full((IMAGES, 3, 4), 200, np.float32))
    status, output = check()
    assert status == 1 and "WRONG their boxes reach from 200 to 200 of the image's width and height" in output


def test_features_of_another_width_than_the_backbone(check, world):
    write_toy_features(world / "features.h5", features=np.ones((IMAGES, 3, 5), np.float32))
    status, output = check()
    assert status == 1 and "WRONG features are 5 wide, the backbone takes 8" in output


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
    assert f"note  {world / 'features.h5.part'}: 4 of 7 images are converted; go on with `{command}`" in output
    main(command.replace("FILE", str(tsv)).split()[1:])
    status, output = check()
    assert row(output, "region features")[1] == "ok" and ".part" not in output
    assert "fingerprint of the features: extractor" in output


@pytest.mark.parametrize("content", [b"", b"something else"])
def test_a_partial_file_with_nothing_in_it(check, world, content):
    (world / "features.h5.part").write_bytes(content)
    status, output = check()
    assert status == 0 and f"note  {world / 'features.h5.part'}: nothing is converted yet" in output
