"""`cdvqa prepare features --images` makes a feature file from a folder of images and a ResNet."""

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ResNetModel

from cdvqa.cli import main
from cdvqa.conversion.sources.images import GridImages
from cdvqa.conversion.sources.resnet import ResNet
from cdvqa.data import RegionFeatures
from tests.conversion.sources.grid import MEAN, STD, draw, save_resnet

IDS = [31, 7, 400, 12, 5]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_resnet(tmp_path_factory.mktemp("checkpoints") / "tiny")


@pytest.fixture
def images(tmp_path):
    for number in IDS:
        draw(tmp_path / "images" / f"COCO_val2014_{number:012}.png", number, (40 + number, 60))
    return tmp_path / "images"


def prepare(images, checkpoint, output, *options):
    inputs = ["--images", str(images), "--checkpoint", str(checkpoint), "--extractor", "grid"]
    return main(["prepare", "features", *inputs, "--output", str(output), *options])


def by_transformers(images, checkpoint, number):
    """Features (6, 6, F) of an image, without any of the package's code."""
    picture = Image.open(images / f"COCO_val2014_{number:012}.png").resize((384, 384), Image.Resampling.BICUBIC)
    pixels = (np.asarray(picture, np.float64) / 255 - MEAN) / STD
    with torch.no_grad():
        model = ResNetModel.from_pretrained(checkpoint).eval()
        stage = model(torch.tensor(pixels, dtype=torch.float32).permute(2, 0, 1)[None]).last_hidden_state
    return torch.nn.functional.adaptive_avg_pool2d(stage, 6)[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 2e-3), ("float32", 1e-4)])
def test_the_file_holds_what_the_network_says(images, checkpoint, tmp_path, capsys, dtype, tolerance):
    output = tmp_path / "features.h5"
    assert prepare(images, checkpoint, output, "--dtype", dtype) == 0
    assert f"5 images, 36 x 20 {dtype}" in capsys.readouterr().out
    reader = RegionFeatures(output)
    assert reader.image_id.tolist() == sorted(IDS)
    for number in IDS:
        features, boxes, mask = reader.read([number])
        grid = by_transformers(images, checkpoint, number)
        np.testing.assert_allclose(features[0].reshape(6, 6, 20), grid, rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(boxes[0, 8], [2 / 6, 1 / 6, 3 / 6, 2 / 6], rtol=1e-6)
        assert mask is None
    with h5py.File(output) as file:
        assert file["size"][:].tolist() == [[40 + number, 60] for number in sorted(IDS)]


def test_the_file_says_what_made_it(images, checkpoint, tmp_path):
    other = save_resnet(tmp_path / "other", seed=1)
    names = []
    for network, output in ((checkpoint, tmp_path / "a.h5"), (other, tmp_path / "b.h5")):
        assert prepare(images, network, output) == 0
        names.append(RegionFeatures(output).fingerprint()["extractor"])
    assert names[0].startswith("grid 6 x 6, tiny, sha256 ")
    assert names[1].startswith("grid 6 x 6, other, sha256 ")
    assert names[0].split(", ")[2] != names[1].split(", ")[2]


def test_the_same_file_from_two_processes_and_after_an_interruption(images, checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(GridImages, "images_per_block", 2)
    whole, shared, resumed = (tmp_path / name for name in ("whole.h5", "shared.h5", "resumed.h5"))
    assert prepare(images, checkpoint, whole) == 0
    assert prepare(images, checkpoint, shared, "--workers", "2") == 0
    last_stage, calls = ResNet.last_stage, []

    def interrupted(self, pixels):
        calls.append(pixels)
        if len(calls) > len(IDS) + 3:  # the sample of the fingerprint, a block and a half
            raise KeyboardInterrupt
        return last_stage(self, pixels)

    with monkeypatch.context() as patch:
        patch.setattr(ResNet, "last_stage", interrupted)
        assert prepare(images, checkpoint, resumed) == 130
    capsys.readouterr()
    assert prepare(images, checkpoint, resumed) == 0
    assert "resumed after 2 images" in capsys.readouterr().out
    for path in (shared, resumed):
        assert path.read_bytes() == whole.read_bytes()


def test_a_finished_file_is_verified_and_never_made_of_two_networks_or_folders(images, checkpoint, tmp_path, capsys):
    output = tmp_path / "features.h5"
    assert prepare(images, checkpoint, output) == 0
    made = output.read_bytes()
    assert prepare(images, checkpoint, output) == 0
    assert "verified" in capsys.readouterr().out
    assert prepare(images, save_resnet(tmp_path / "other", seed=1), output) == 2
    assert "not made from this input with these options; replace it with --overwrite" in capsys.readouterr().err
    draw(images / "99.png", 99)
    assert prepare(images, checkpoint, output) == 2
    assert output.read_bytes() == made
    assert prepare(images, checkpoint, output, "--overwrite") == 0
    assert 99 in RegionFeatures(output).image_id


def test_a_bad_image_leaves_nothing_behind(images, checkpoint, tmp_path, capsys):
    (images / "77.jpg").write_bytes(b"no image")
    assert prepare(images, checkpoint, tmp_path / "new" / "features.h5") == 2
    error = capsys.readouterr().err
    assert f"{images / '77.jpg'}: not a readable image" in error
    assert error.count("\n") == 1
    assert not list((tmp_path / "new").glob("*"))


def test_an_image_that_is_damaged_behind_its_head_is_named(images, checkpoint, tmp_path, capsys):
    damaged = draw(images / "77.jpg", 7, (300, 300))
    damaged.write_bytes(damaged.read_bytes()[:-500])
    assert prepare(images, checkpoint, tmp_path / "features.h5") == 2
    assert f"{damaged}: not a readable image (image file is truncated" in capsys.readouterr().err
    assert not list(tmp_path.glob("features.h5*"))


def test_the_network_when_none_is_named(images, checkpoint, tmp_path, monkeypatch):
    asked = []

    def load(name):
        asked.append(name)
        return ResNet(str(checkpoint))

    monkeypatch.setattr("cdvqa.conversion.sources.resnet.load_resnet", load)
    assert main(["prepare", "features", "--images", str(images), "--output", str(tmp_path / "features.h5")]) == 0
    assert set(asked) == {"microsoft/resnet-101"}
