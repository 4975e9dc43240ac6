"""Grid features of a folder of images: a ResNet's output averaged in 6 x 6 cells, in any order of reading."""

import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BertConfig, ResNetModel

from cdvqa.conversion.sources.images import GridImages
from cdvqa.errors import InputError
from tests.conversion.sources.grid import MEAN, STD, draw, save_resnet


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return str(save_resnet(tmp_path_factory.mktemp("checkpoints") / "tiny"))


@pytest.fixture
def folder(tmp_path):
    """Three images of three kinds, two of them in a folder of their own, among what is no image."""
    draw(tmp_path / "images" / "COCO_val2014_000000000007.png", 7)
    draw(tmp_path / "images" / "b" / "12.JPG", 12, (64, 30))
    draw(tmp_path / "images" / "b" / "0003.webp", 3, (33, 70))
    (tmp_path / "images" / "notes.txt").write_text("no image")
    draw(tmp_path / "images" / "._12.jpg", 0)
    draw(tmp_path / "images" / ".cache" / "99.png", 0)
    return tmp_path / "images"


def ask(source):
    index = source.index(lambda step, done, total: None)
    return index, list(source.images(index))


def features(path, checkpoint):
    _, (image,) = ask(GridImages(path, checkpoint))
    return image.features


def test_ids_and_sizes_in_the_order_of_names(folder, checkpoint):
    source, reported = GridImages(folder, checkpoint), []
    index = source.index(lambda *step: reported.append(step))
    assert index.image_id.tolist() == [7, 3, 12]
    assert index.size.tolist() == [[50, 40], [33, 70], [64, 30]]
    assert index.num_boxes.tolist() == [36] * 3
    assert index.region_width == 20
    assert reported[-1] == ("checking", source.bytes, source.bytes)
    names = ["COCO_val2014_000000000007.png", "b/0003.webp", "b/12.JPG"]
    assert [done for _, done, _ in reported] == np.cumsum([(folder / name).stat().st_size for name in names]).tolist()


def test_features_are_the_networks_own_averaged_in_cells(folder, checkpoint):
    """Against one batch of all images through transformers, with pixels prepared in numpy and torch's own pooling."""
    names = ["COCO_val2014_000000000007.png", "b/0003.webp", "b/12.JPG"]
    pixels = []
    for name in names:
        image = Image.open(folder / name).convert("RGB").resize((384, 384), Image.Resampling.BICUBIC)
        pixels.append((np.asarray(image, np.float64) / 255 - MEAN) / STD)
    batch = torch.tensor(np.stack(pixels), dtype=torch.float32).permute(0, 3, 1, 2)
    with torch.no_grad():
        stage = ResNetModel.from_pretrained(checkpoint).eval()(batch).last_hidden_state
    assert stage.shape == (3, 20, 12, 12)
    assert (stage.flatten(2).std(2) > 0.01).float().mean() > 0.5  # it differs between positions
    pooled = torch.nn.functional.adaptive_avg_pool2d(stage, 6).numpy()
    _, images = ask(GridImages(folder, checkpoint))
    cells = [(row, column) for row in range(6) for column in range(6)]
    boxes = np.array([[c / 6, r / 6, (c + 1) / 6, (r + 1) / 6] for r, c in cells], np.float32)
    for image, expected, name in zip(images, pooled, names, strict=True):
        assert image.where == str(folder / name)
        assert image.features.dtype == np.float32
        np.testing.assert_allclose(image.features, [expected[:, r, c] for r, c in cells], rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(image.boxes, boxes)


@pytest.mark.parametrize(("corner", "cell"), [((0, 0), 0), ((1, 0), 5), ((0, 1), 30), ((1, 1), 35)])
def test_what_changes_in_a_corner_changes_that_corners_cell_most(tmp_path, checkpoint, corner, cell):
    plain = Image.new("RGB", (600, 480), (90, 120, 60))
    marked, patch = plain.copy(), Image.open(draw(tmp_path / "patch.png", 1, (100, 80)))
    marked.paste(patch, (500 * corner[0], 400 * corner[1]))
    for name, image in (("plain", plain), ("marked", marked)):
        (tmp_path / name).mkdir()
        image.save(tmp_path / name / "1.png")
    change = features(tmp_path / "marked", checkpoint) - features(tmp_path / "plain", checkpoint)
    change = np.linalg.norm(change, axis=1)
    assert change.argmax() == cell
    assert change[cell] > 1.25 * np.delete(change, cell).max()


def test_the_same_bytes_in_any_blocks_processes_and_threads(folder, checkpoint):
    for number in range(20, 24):
        draw(folder / f"{number}.png", number)
    source = GridImages(folder, checkpoint)
    index, whole = ask(source)
    expected = {image.where: image.features.tobytes() for image in whole}
    assert len(set(expected.values())) == 7
    copy = pickle.loads(pickle.dumps(source))
    torch.set_num_threads(2)
    try:
        for cut in ((0, 1), (1, 4), (4, 7), (5, 6)):
            for image in copy.images(index[slice(*cut)]):
                assert image.features.tobytes() == expected[image.where]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert [image.where for image in source.images(index[::3])] == [image.where for image in whole[::3]]


def test_the_network_runs_in_one_thread_whatever_is_set(folder, checkpoint, monkeypatch):
    forward, threads = ResNetModel.forward, []

    def spy(self, *args, **settings):
        threads.append(torch.get_num_threads())
        return forward(self, *args, **settings)

    monkeypatch.setattr(ResNetModel, "forward", spy)
    torch.set_num_threads(2)
    try:
        ask(GridImages(folder, checkpoint))
    finally:
        torch.set_num_threads(1)
    assert set(threads) == {1}


def test_an_image_is_turned_as_its_camera_says(tmp_path, checkpoint):
    upright = Image.open(draw(tmp_path / "upright" / "1.png", 5, (60, 36)))
    (tmp_path / "turned").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned" / "1.png", exif=exif)
    index, (image,) = ask(GridImages(tmp_path / "turned", checkpoint))
    assert index.size.tolist() == [[60, 36]]
    np.testing.assert_array_equal(image.features, features(tmp_path / "upright", checkpoint))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1"])
def test_other_modes_are_seen_as_rgb(tmp_path, checkpoint, mode):
    image = Image.open(draw(tmp_path / "drawn" / "1.png", 5)).convert(mode)
    for name, saved in (("own", image), ("rgb", image.convert("RGB"))):
        (tmp_path / name).mkdir()
        saved.save(tmp_path / name / "1.png")
    np.testing.assert_array_equal(features(tmp_path / "own", checkpoint), features(tmp_path / "rgb", checkpoint))


def test_the_extractor_distinguishes_networks(folder, checkpoint, tmp_path):
    def extractor(path):
        return GridImages(folder, str(path)).extractor

    name = extractor(checkpoint)
    assert name.startswith("grid 6 x 6, tiny, sha256 ")
    assert name.endswith(" (weights, mean, std), 384 x 384 pixels")
    assert extractor(shutil.copytree(checkpoint, tmp_path / "a" / "tiny")) == name
    assert extractor(save_resnet(tmp_path / "b" / "tiny", seed=1)) != name
    assert extractor(save_resnet(tmp_path / "c" / "tiny", mean=[0.4, 0.5, 0.5])) != name


def test_identity_follows_files_and_network(folder, checkpoint, tmp_path):
    source = GridImages(folder, checkpoint)
    before = source.identity
    assert before == GridImages(folder, checkpoint).identity
    assert GridImages(folder, str(save_resnet(tmp_path / "other", seed=1))).identity != before
    draw(folder / "b" / "12.JPG", 13, (64, 30))
    assert source.identity != before


def test_another_stride_is_averaged_into_the_same_cells(folder, tmp_path):
    shallow = save_resnet(tmp_path / "shallow", hidden_sizes=[4, 8], depths=[1, 1], out_features=None)
    index, images = ask(GridImages(folder, str(shallow)))
    assert index.region_width == 8
    assert [image.features.shape for image in images] == [(36, 8)] * 3


def test_torch_is_imported_only_when_it_is_needed():
    code = "import sys, cdvqa.conversion.sources.images; print('torch' in sys.modules, 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False False\n"


# --- what is refused ----------------------------------------------------------------------------------------------


def refusal(path, checkpoint):
    with pytest.raises(InputError) as caught:
        ask(GridImages(path, str(checkpoint)))
    text = str(caught.value)
    assert "\n" not in text
    return text


def _cut(folder):
    path = draw(folder / "55.jpg", 1, (300, 300))
    path.write_bytes(path.read_bytes()[:-200])
    return "55.jpg: not a readable image (image file is truncated"


def _no_image(folder):
    (folder / "55.jpg").write_bytes(b"<html>404</html>")
    return "55.jpg: not a readable image (no JPEG, PNG or WebP); fetch it again"


def _other_format(folder):
    Image.open(folder / "b" / "12.JPG").save(folder / "55.jpg", format="TIFF")
    return "55.jpg: not a readable image (no JPEG, PNG or WebP); fetch it again"


def _deep_grey(folder):
    Image.fromarray(np.full((9, 9), 40000, np.uint16)).save(folder / "55.png")
    return "55.png: has more than 8 bits a pixel of grey; store it with 8"


def _nameless(folder):
    draw(folder / "cat.png", 1)
    return "cat.png: no image id; name the file by it"


def _twice(folder):
    draw(folder / "c" / "COCO_train2014_000000000012.png", 1)
    return "c/COCO_train2014_000000000012.png: image 12 is b/12.JPG too; remove one"


def _dangling(folder):
    (folder / "55.jpg").symlink_to(folder / "nowhere.jpg")
    return "55.jpg: No such file or directory; remove it or make it readable"


@pytest.mark.parametrize("spoil", [_cut, _no_image, _other_format, _deep_grey, _nameless, _twice, _dangling])
def test_a_bad_image_is_named(folder, checkpoint, spoil):
    assert spoil(folder) in refusal(folder, checkpoint)


def test_a_folder_without_images(tmp_path, checkpoint):
    assert "images: no such folder; --images is a folder of .jpg" in refusal(tmp_path / "images", checkpoint)
    (tmp_path / "images").mkdir()
    assert "images: no image in it; --images is a folder of .jpg" in refusal(tmp_path / "images", checkpoint)


def _absent(path):
    return "cannot load the network"


def _another_network(path):
    BertConfig().save_pretrained(path)
    return "a bert, not a ResNet over RGB images"


def _grey(path):
    save_resnet(path, num_channels=1)
    return "not a ResNet over RGB images"


def _no_processor(path):
    (save_resnet(path) / "preprocessor_config.json").unlink()
    return "cannot load the network (Can't load image processor"


def _no_mean(path):
    save_resnet(path, mean=None)
    return "preprocessor_config.json: image_mean must be three numbers, not None"


def _no_spread(path):
    save_resnet(path, std=[0.2, 0, 0.2])
    return "preprocessor_config.json: image_std must be three"


def _cut_weights(path):
    weights = save_resnet(path) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    return "cannot load the network"


def _pickled_nonsense(path):
    (save_resnet(path) / "model.safetensors").unlink()
    (path / "pytorch_model.bin").write_bytes(pickle.dumps(print, protocol=2))
    return "cannot load the network"


def _lacking_weights(path):
    deep = save_resnet(path.with_name("deep"), depths=[1, 1, 1, 2])
    shutil.copy(deep / "config.json", save_resnet(path))
    return "its weights lack 10 of the network's, as encoder.stages.3.layers.1.layer.0.convolution.weight"


def _too_coarse(path):
    save_resnet(path, hidden_sizes=[4] * 6, depths=[1] * 6)
    return "its last stage has 3 places a side, no multiple of 6"


CHECKPOINTS = [_absent, _another_network, _grey, _no_processor, _no_mean, _no_spread, _cut_weights]


@pytest.mark.parametrize("spoil", [*CHECKPOINTS, _pickled_nonsense, _lacking_weights, _too_coarse])
def test_a_checkpoint_that_will_not_do(folder, tmp_path, spoil):
    path = tmp_path / "spoilt"
    expected = spoil(path)
    text = refusal(folder, path)
    assert text.startswith(f"{path}: ")
    assert expected in text


def test_a_checkpoint_that_would_have_to_be_fetched(folder):
    text = refusal(folder, "nobody/has-this-resnet")
    assert text.startswith("nobody/has-this-resnet: cannot load the network (")
    assert text.endswith("model.safetensors of a ResNet with --checkpoint FOLDER")
