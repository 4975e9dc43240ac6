"""What `cdvqa check` looks at for other backbones than LXMERT: images, words behind the questions, files of weights."""

import json

import pytest

from cdvqa.backbones import LoadReport, Lxmert
from cdvqa.data.visual.source import ImageFormat
from tests.data.toy import IMAGES, dump, write_toy_images
from tests.tools.check.table import row


@pytest.fixture
def images(world, monkeypatch):
    """The toy data with images in the place of its features, for a backbone that wants these."""
    monkeypatch.setattr(Lxmert, "image_format", ImageFormat(16, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)))
    (world / "features.h5").unlink()
    write_toy_images(world / "images")
    return world / "images"


def test_a_complete_folder(check, images):
    status, output = check()
    assert status == 0 and "region features" not in output
    assert row(output, "images")[1] == "ok" and row(output, "images")[-1] == str(images)
    expected = f"ok    images: {IMAGES} images, 3 x 16 x 16 float32; * SHA-256 of a sample\n"
    assert expected in output and "ok    8 sampled images can be read\n" in output
    assert "ok    test: every question's image has a file\n" in output


def test_no_folder(check, images):
    images.rename(images.with_name("elsewhere"))
    status, output = check()
    assert status == 1 and row(output, "images")[1:] == ["missing", str(images)]
    assert "- images: train2014 and val2014 of COCO, or your own images: a folder given with --data.images" in output
    assert check(**{"data.images": images.with_name("elsewhere")})[0] == 0


def test_an_image_that_is_not_there(check, images, world):
    next(images.rglob("*_000000000005.png")).unlink()
    status, output = check()
    questions = json.loads((world / "vqacp_v2_train_questions.json").read_bytes())
    lost = [question["question_id"] for question in questions if question["image_id"] == 5]
    assert status == 1 and f"ok    images: {IMAGES - 1} images" in output
    assert f"WRONG train: {images}: image 5 (question {min(lost)}) " in output


def test_an_image_that_cannot_be_read(check, images):
    file = next(images.rglob("*_000000000001.png"))  # the first of all: train2014 comes before val2014
    file.write_bytes(file.read_bytes()[:100])
    status, output = check()
    assert status == 1 and f"WRONG {file}: not a readable image (" in output


def test_a_folder_with_a_name_that_is_no_id(check, images):
    next(images.rglob("*_000000000001.png")).rename(images / "logo.png")
    status, output = check()
    assert status == 1 and row(output, "images")[1] == "unusable" and "logo.png: no image id" in output


def test_own_questions_about_images(check, images, world):
    own = world.parent / "mine.json"
    dump(own, [{"question_id": 1, "image_id": 99, "question": "what is it?"}])
    status, output = check(**{"data.questions": own})
    assert status == 1 and row(output, "own questions")[1] == "unusable"
    assert f"{images}: image 99 (question 1) has no file in the folder; --data.images must hold every image" in output


def test_extra_text(check, world):
    extra = world.parent / "extra.json"
    status, output = check(**{"data.extra_text": extra})
    assert status == 1 and row(output, "extra text")[1:] == ["missing", str(extra)]
    dump(extra, [{"question_id": 1, "ocr": ["stop"]}])
    status, output = check(**{"data.extra_text": extra})
    assert status == 0 and "ok    extra text: 1 questions\n" in output
    dump(extra, [{"question_id": 1, "ocr": "stop"}])
    status, output = check(**{"data.extra_text": extra})
    assert status == 1 and "WRONG extra text: record 0 (question 1): 'ocr' must be a list of words" in output


def test_a_checkpoint_that_is_one_file(check, world, monkeypatch):
    file = world.parent / "mplug_base.pth"
    status, output = check(**{"model.backbone.pretrained": file})
    assert status == 1 and row(output, "pre-trained weights")[1:] == ["missing", str(file)]
    assert "publish; give the file with --model.backbone.pretrained FILE" in output
    status, output = check(**{"model.backbone.pretrained": "absent/mplug_base.pth"})  # no name on the hub
    assert row(output, "pre-trained weights")[1:] == ["missing", "absent/mplug_base.pth"]
    file.write_bytes(b"weights")
    monkeypatch.setattr(Lxmert, "load_pretrained", lambda self: LoadReport(str(self.pretrained), 5, 5, [], []))
    status, output = check(**{"model.backbone.pretrained": file})
    found = row(output, "pre-trained weights")
    assert (found[1], found[-1]) == ("ok", str(file))
    assert "ok    pre-trained weights: 100.0% of 5 parameters matched, 0 names missing, 0 unexpected\n" in output


def test_word_vectors(check, world, monkeypatch):
    file = world.parent / "glove.6B.300d.txt"
    monkeypatch.setattr(Lxmert, "glove", str(file), raising=False)
    status, output = check()
    assert status == 1 and row(output, "word vectors")[1:] == ["missing", str(file)]
    assert "- word vectors: glove.6B of the GloVe project" in output
    file.write_text("dog 0.1 0.2\n")
    status, output = check()
    assert status == 0 and row(output, "word vectors")[-1] == str(file)
