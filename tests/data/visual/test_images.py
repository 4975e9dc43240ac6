"""Pictures from a folder: found by their names, upright, squeezed, normalised; the same however they are read."""

import os
import re
import struct
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageOps

from cdvqa.data.visual.augmentation import mplug
from cdvqa.data.visual.image_files import image_number, opened, upright_size
from cdvqa.data.visual.images import ImageFolder
from cdvqa.data.visual.source import ImageFormat
from cdvqa.errors import InputError
from tests.data.toy import IMAGES, write_toy_images

FORMAT = ImageFormat(16, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
IDS = np.array([5, 0, 5, 11])


@pytest.fixture
def pixels(tmp_path):
    return write_toy_images(tmp_path / "images")


def expected(picture):
    """By the definition, in float64."""
    squeezed = np.asarray(picture.resize((16, 16), Image.Resampling.BICUBIC), np.float64)
    return ((squeezed / 255 - FORMAT.mean) / FORMAT.std).transpose(2, 0, 1)


def test_pictures_are_squeezed_and_normalised(tmp_path, pixels):
    folder = ImageFolder(tmp_path / "images", FORMAT)
    assert len(folder) == IMAGES and sorted(folder.image_id) == list(range(IMAGES))
    pictures = folder.read(IDS)
    assert pictures.shape == (4, 3, 16, 16) == (4, *folder.image_shape)
    assert pictures.dtype == np.float32 == folder.dtype
    for picture, image in zip(pictures, IDS.tolist(), strict=True):
        np.testing.assert_allclose(picture, expected(Image.fromarray(pixels[image])), rtol=1e-6, atol=1e-6)
    out = np.full((4, 3, 16, 16), np.nan, np.float32)
    assert folder.read(IDS, out=out) is out
    np.testing.assert_array_equal(out, pictures)


def test_names_and_kinds_of_files(tmp_path):
    rng = np.random.default_rng(0)
    grey = Image.fromarray(rng.integers(0, 256, (9, 12), dtype=np.uint8))
    grey.save(tmp_path / "7.png")
    grey.convert("RGB").save(tmp_path / "COCO_val2014_000000000008.jpg", quality=90)
    clear = Image.new("RGBA", (9, 9), (10, 200, 30, 0))
    clear.save(tmp_path / "my_photo_9.webp", lossless=True, exact=True)
    (tmp_path / "readme.txt").write_text("no image")
    (tmp_path / ".hidden.jpg").write_text("no image")
    folder = ImageFolder(tmp_path, FORMAT)
    assert sorted(folder.image_id) == [7, 8, 9]
    pictures = folder.read([7, 8, 9])
    np.testing.assert_allclose(pictures[0], expected(grey.convert("RGB")), rtol=1e-6, atol=1e-6)
    with Image.open(tmp_path / "COCO_val2014_000000000008.jpg") as photo:
        np.testing.assert_allclose(pictures[1], expected(photo), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(pictures[2], expected(clear.convert("RGB")), rtol=1e-6, atol=1e-6)


def exif(kind, value):
    """EXIF data with an orientation of a TIFF type: 3 a short, 2 text, 12 a double (behind the entry)."""
    head = struct.pack("<2sHIHHHI", b"II", 42, 8, 1, 0x0112, kind, 2 if kind == 2 else 1)
    if kind == 3:
        return b"Exif\0\0" + head + struct.pack("<HHI", value, 0, 0)
    return b"Exif\0\0" + head + (b"6" + bytes(7) if kind == 2 else struct.pack("<IId", 26, 0, value))


@pytest.mark.parametrize(("kind", "orientation"), [*((3, number) for number in range(10)), (2, "6"), (12, 6.0)])
def test_pictures_are_turned_upright(tmp_path, kind, orientation):
    """As Pillow turns them; an orientation of another type, over which it stumbles, is none."""
    values = np.random.default_rng(1).integers(0, 256, (10, 24, 3), dtype=np.uint8)
    upright = Image.fromarray(values)
    upright.save(tmp_path / "1.png", exif=exif(kind, orientation))
    with opened(tmp_path / "1.png") as image:
        assert image.getexif()[0x0112] == orientation
        upright = ImageOps.exif_transpose(image) if kind == 3 else upright
        assert upright_size(image) == upright.size
    np.testing.assert_allclose(ImageFolder(tmp_path, FORMAT).read([1])[0], expected(upright), rtol=1e-6, atol=1e-6)


def test_a_pipe_is_refused(tmp_path, pixels):
    os.mkfifo(tmp_path / "images" / "77.png")
    with pytest.raises(InputError, match=r"77\.png: not a file; remove it"):
        ImageFolder(tmp_path / "images", FORMAT)


def test_what_is_no_folder_of_images_is_refused(tmp_path, pixels):
    with pytest.raises(
        InputError, match=r"absent: no such folder of images; point --data\.images at a folder of \.jpg"
    ):
        ImageFolder(tmp_path / "absent", FORMAT)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty: no image in it"):
        ImageFolder(tmp_path / "empty", FORMAT)
    images = tmp_path / "images"
    (images / "3.jpg").write_bytes(b"")
    with pytest.raises(InputError, match=r"COCO_train2014_000000000003\.png: image 3 is 3\.jpg too; remove one"):
        ImageFolder(images, FORMAT)
    (images / "3.jpg").rename(images / "logo.jpg")
    with pytest.raises(InputError, match=r"logo\.jpg: no image id; name the file by it"):
        ImageFolder(images, FORMAT)
    (images / "logo.jpg").rename(images / "n0.jpg")  # would be 0, and GQA has no such image
    with pytest.raises(InputError, match=r"n0\.jpg: no image id"):
        ImageFolder(images, FORMAT)


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("318556", 318556),
        ("COCO_train2014_000000318556", 318556),
        ("n161313", -161313),
        *((name, None) for name in ("n0", "n007", "-5", "x161313", "GQA_n161313", "n161313a", "n" + "1" * 19)),
    ],
)
def test_the_id_in_a_name(name, number):
    assert image_number(name) == number


def test_a_missing_image_is_named_with_its_question(tmp_path, pixels):
    folder = ImageFolder(tmp_path / "images", FORMAT)
    wanted = f"^{re.escape(str(tmp_path / 'images'))}: image 99 \\(question 42\\) has no file in the folder$"
    with pytest.raises(InputError, match=wanted):
        folder.check_images(np.array([3, 99]), np.array([41, 42]))
    with pytest.raises(InputError, match=wanted):
        folder.read([99], [42])


@pytest.mark.parametrize("damage", [lambda content: content[: len(content) // 2], lambda content: b"no image"])
def test_an_unreadable_image_is_named(tmp_path, pixels, damage):
    file = tmp_path / "images" / "train2014" / "COCO_train2014_000000000003.png"
    file.write_bytes(damage(file.read_bytes()))
    folder = ImageFolder(tmp_path / "images", FORMAT)
    with pytest.raises(InputError, match=f"^{re.escape(str(file))}: not a readable image \\([^\n]+\\); fetch it again"):
        folder.read([2, 3])
    file.unlink()
    with pytest.raises(InputError, match=f"^{re.escape(str(file))}: not a readable image"):
        folder.read([3])


def test_the_fingerprint_follows_size_and_ids_and_nothing_else(tmp_path, pixels):
    images = tmp_path / "images"
    first = ImageFolder(images, FORMAT).fingerprint()
    assert first["extractor"] == "images, 16 x 16 pixels" and first["files"] == IMAGES
    (images / "val2014" / "COCO_val2014_000000000002.png").rename(images / "2.png")
    assert ImageFolder(images, FORMAT).fingerprint() == first
    assert ImageFolder(images, FORMAT._replace(side=8)).fingerprint()["extractor"] != first["extractor"]
    (images / "2.png").rename(images / "200.png")
    assert ImageFolder(images, FORMAT).fingerprint()["ids_sha256"] != first["ids_sha256"]


def test_threads_read_what_one_reads(tmp_path, pixels):
    folder = ImageFolder(tmp_path / "images", FORMAT).augmented(mplug, seed=1)
    questions = np.arange(600)
    whole = ImageFolder(tmp_path / "images", FORMAT).augmented(mplug, seed=1).read(questions % IMAGES, questions)
    start = threading.Barrier(3)

    def read(part):
        start.wait()
        return folder.read(part % IMAGES, part)

    with ThreadPoolExecutor(3) as threads:
        parts = list(threads.map(read, np.split(questions, 3)))
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_augmentation_is_a_function_of_seed_epoch_and_question(tmp_path, pixels):
    plain = ImageFolder(tmp_path / "images", FORMAT)
    folder = plain.augmented(mplug, seed=1)
    images, questions = np.array([4, 4, 7]), np.array([10, 11, -12])
    first = folder.read(images, questions, epoch=3)
    assert not np.array_equal(first[0], first[1])  # another question about the same image
    np.testing.assert_array_equal(folder.read(images[::-1], questions[::-1], epoch=3), first[::-1])
    for other in (folder.read(images, questions, epoch=4), plain.augmented(mplug, seed=2).read(images, questions, 3)):
        assert all(not np.array_equal(*pair) for pair in zip(first, other, strict=True))
    np.testing.assert_array_equal(plain.read(images), ImageFolder(tmp_path / "images", FORMAT).read(images))
