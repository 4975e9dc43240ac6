"""Folders of numpy files, one image each."""

import io
import os
import resource
import zipfile

import numpy as np
import pytest
from numpy.lib import format as npy

from cdvqa.conversion.sources import arrays
from cdvqa.conversion.sources.arrays import ArrayFolder
from cdvqa.errors import InputError
from tests.conversion.sources.foreign import (
    assert_reads,
    mmf_info,
    read,
    shares,
    spatial,
    vilbert_entry,
    write_mmf,
    write_npz,
)
from tests.tools.features_tsv import sample_images


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("name", ["{}.npz", "val2014/COCO_val2014_{:0>12}.jpg.npz"])
def test_npz(tmp_path, transposed, save, name):
    images = sample_images(regions=[2, 4, 1, 3, 3, 2, 1], width=6)
    folder = write_npz(tmp_path / "features", images, transposed, save, name)
    assert ArrayFolder.recognises(folder)
    assert_reads(ArrayFolder(folder), images)


def test_npz_of_uniter(tmp_path):
    images = sample_images()
    for image in images:
        np.savez(
            tmp_path / f"coco_val2014_{image.id:0>12}.npz",
            features=image.features.astype(np.float16),
            norm_bb=spatial(image).astype(np.float16),
            conf=np.ones(3),
            soft_labels=np.ones((3, 9)),
        )
    content = read(ArrayFolder(tmp_path))
    for image in images:
        features, boxes, size = content[int(image.id)]
        np.testing.assert_array_equal(features, image.features.astype(np.float16))
        np.testing.assert_allclose(boxes, shares(image), atol=1e-3)
        assert size == (0, 0)


@pytest.mark.parametrize(("regions", "width"), [([2, 4, 1, 3], 5), ([36, 36], 500)])
def test_npy_pairs_of_mmf(tmp_path, regions, width):
    images = sample_images(regions=regions, width=width)
    assert_reads(ArrayFolder(write_mmf(tmp_path, images)), images)


def test_npy_with_everything_in_one_dict(tmp_path):
    images = sample_images()
    for image in images:
        np.save(tmp_path / f"COCO_train2014_{image.id:0>12}.npy", vilbert_entry(image))
    assert_reads(ArrayFolder(tmp_path), images)


def test_arrays_in_fortran_order_and_other_types(tmp_path):
    image = sample_images(count=1, regions=4, width=6)[0]
    features = np.asfortranarray(image.features.astype(">f8"))
    np.save(tmp_path / "1000.npy", features)
    np.save(tmp_path / "1000_info.npy", mmf_info(image))
    np.testing.assert_array_equal(read(ArrayFolder(tmp_path))[1000][0], features)


def test_regions_beyond_num_bbox_are_padding(tmp_path):
    image = sample_images(count=1, regions=5)[0]
    size = {"image_w": image.width, "image_h": image.height}
    np.savez(tmp_path / "7.npz", x=image.features, bbox=image.boxes, num_bbox=[3], **size)
    features, boxes, _ = read(ArrayFolder(tmp_path))[7]
    np.testing.assert_array_equal(features, image.features[:3])
    np.testing.assert_allclose(boxes, shares(image)[:3])


def test_the_folder_is_read_in_the_order_of_its_names(tmp_path):
    images = sample_images()
    index = ArrayFolder(write_npz(tmp_path, images)).index(lambda *reported: None)
    assert index.image_id.tolist() == [int(name) for name in sorted(image.id for image in images)]


def test_identity_tells_every_change(tmp_path):
    images = sample_images()
    source = ArrayFolder(write_npz(tmp_path, images))
    before = source.identity
    assert source.identity == before
    os.utime(tmp_path / f"{images[3].id}.npz", (1, 1))
    touched = source.identity
    (tmp_path / f"{images[3].id}.npz").unlink()
    assert len({str(before), str(touched), str(source.identity)}) == 3


# --- wrong input ----------------------------------------------------------------------------------------------------


def refused(folder, message):
    with pytest.raises(InputError, match=message) as error:
        read(ArrayFolder(folder))
    assert str(error.value).startswith(str(folder)) and "\n" not in str(error.value)


def test_empty_and_missing_folders(tmp_path):
    (tmp_path / "readme.txt").write_text("none here")
    assert not ArrayFolder.recognises(tmp_path)
    refused(tmp_path, "holds no .npz or .npy file with features")
    refused(tmp_path / "none", "no such folder")


def test_an_image_twice(tmp_path):
    image = sample_images(count=1)[0]
    write_npz(tmp_path, [image])
    write_npz(tmp_path, [image], name="val2014/COCO_val2014_{:0>12}.npz")
    refused(tmp_path, r"COCO_val2014_000000001000.npz: image 1000 is in .*1000.npz too; remove one")


def test_a_name_without_a_number(tmp_path):
    write_npz(tmp_path, sample_images(count=1), name="n{}a.npz")
    refused(tmp_path, r"n1000a.npz: 'n1000a' holds no image id \(a number, COCO_…_number, n161313\)")


def test_a_missing_companion(tmp_path):
    write_mmf(tmp_path, sample_images(count=2))
    (tmp_path / "993_info.npy").unlink()
    refused(tmp_path, r"993.npy: 993_info.npy, which has its boxes and its size, is missing beside it")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_cut_off_or_damaged(tmp_path, save):
    path = write_npz(tmp_path, sample_images(count=1, regions=36, width=500), save=save) / "1000.npz"
    whole = path.read_bytes()
    for length in range(0, len(whole), len(whole) // 20):
        path.write_bytes(whole[:length])
        refused(tmp_path, r"1000\.npz: not a readable .npz file \(.*; make it again")
    damaged = bytearray(whole)
    damaged[len(whole) // 4] ^= 0xFF  # in the features
    path.write_bytes(damaged)
    refused(tmp_path, r"1000\.npz: 'x' cannot be read \(")


@pytest.mark.parametrize("name", ["1000.npy", "1000_info.npy"])
def test_npy_cut_off(tmp_path, name):
    path = write_mmf(tmp_path, sample_images(count=1)) / name
    whole = path.read_bytes()
    for length in range(0, len(whole), 3):
        path.write_bytes(whole[:length])
        refused(tmp_path, r"1000(_info)?\.npy: not a (readable .npy file|pickle)")


def test_other_files_under_such_names(tmp_path):
    (tmp_path / "5.npz").write_bytes(b"text")
    refused(tmp_path, r"5\.npz: not a readable .npz file")
    with zipfile.ZipFile(tmp_path / "5.npz", "w") as archive:
        archive.writestr("x.txt", "text")
    refused(tmp_path, r"5\.npz: not a readable .npz file")


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({}, "holds no features or x"),
        ({"x": np.ones((3, 5))}, "holds no sp_feats or norm_bb or bbox or boxes or image_bb, but x"),
        ({"x": np.ones((3, 5)), "bbox": np.ones((3, 4)) * 9}, "boxes are in pixels and the image's width and height"),
        ({"x": np.ones((3, 5)), "bbox": np.ones((2, 4))}, r"'x' is \(3, 5\), which does not fit 2 boxes"),
        ({"x": np.array([{}]), "bbox": np.ones((2, 4))}, "holds no features or x"),
        ({"x": np.ones((3, 5)), "bbox": np.ones((3, 4)), "num_bbox": 4}, "num_boxes is 4, but there are 3 boxes"),
        ({"x": np.ones((3, 5)), "bbox": np.ones((3, 4)), "num_bbox": [1, 2]}, "num_bbox must be a positive whole"),
        ({"x": np.ones((3, 5)), "bbox": np.full((3, 4), "a")}, "'bbox' is <U1"),
    ],
)
def test_wrong_members(tmp_path, members, message):
    np.savez(tmp_path / "5.npz", **members)
    refused(tmp_path, rf"5\.npz: {message}")


def test_a_wrong_size_is_found_by_a_box_beyond_it(tmp_path):
    image = sample_images(count=1)[0]
    write_npz(tmp_path, [image._replace(boxes=np.float32([[0, 0, 90, 199]] * 3), width=100, height=100)])
    refused(tmp_path, "boxes reach out of the image of 100 x 100 pixels; its size is wrong")


def header(shape):
    file = io.BytesIO()
    npy.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return file.getvalue()


@pytest.mark.parametrize(("shape", "content"), [((1 << 40,), b""), ((3, 1 << 28), b"a" * 60), ((-3, -5), bytes(60))])
@pytest.mark.parametrize("name", ["1000.npz", "1000.npy"])
def test_shapes_that_do_not_fit_the_bytes_are_refused_before_memory_is_taken(tmp_path, shape, content, name):
    if name == "1000.npz":
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("x.npy", header(shape) + content)
            archive.writestr("bbox.npy", header((3, 4)) + bytes(48))
    else:
        write_mmf(tmp_path, sample_images(count=1))
        (tmp_path / name).write_bytes(header(shape) + content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(tmp_path, rf"{name}: (not a readable .np[yz] file|'(x|features)' is)")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


def test_an_archive_that_unpacks_to_more_than_an_image_is_refused(tmp_path, monkeypatch):
    """Two MB of zeros in an archive can unpack to gigabytes."""
    monkeypatch.setattr(arrays, "_LARGEST", 1 << 20)
    np.savez_compressed(tmp_path / "1000.npz", x=np.zeros((3, 1 << 18), np.float32), bbox=np.zeros((3, 4)))
    refused(tmp_path, r"1000\.npz: not a readable .npz file \(3,145,856 bytes are too many for one image\)")


def test_pipes_are_left_out(tmp_path):
    os.mkfifo(tmp_path / "5.npz")
    refused(tmp_path, "holds no .npz or .npy file with features")


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["1000.npy", "1000_info.npy"])
def test_no_code_is_run(tmp_path, name):
    folder, made = write_mmf(tmp_path / "in", sample_images(count=1)), tmp_path / "made"
    np.save(folder / name, {"features": Malicious(made)}, allow_pickle=True)
    refused(folder, rf"{name}: not a pickle of plain values and arrays \(it asks for posix.mkdir\)")
    write_npz(tmp_path / "npz", sample_images(count=1))
    np.savez(tmp_path / "npz" / "5.npz", x=np.array([Malicious(made)], object), bbox=np.ones((1, 4)))
    refused(tmp_path / "npz", "5.npz: holds no features")
    assert not made.exists()
