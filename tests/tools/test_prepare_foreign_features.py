"""`cdvqa prepare features` from every layout but TSV gives what the arrays in them say."""

import os

import h5py
import numpy as np
import pytest

from cdvqa.data import RegionFeatures
from tests.conversion.sources import foreign
from tests.tools.features_tsv import convert, expected, sample_images

WRITERS = {  # name: (writer, --format, whether it tells sizes)
    "npz": (lambda folder, images: foreign.write_npz(folder / "npz", images), "arrays", True),
    "openvqa": (
        lambda folder, images: foreign.write_npz(
            folder / "features", images, transposed=True, name="train2014/COCO_train2014_{:0>12}.jpg.npz"
        ),
        "arrays",
        True,
    ),
    "mmf": (lambda folder, images: foreign.write_mmf(folder / "npy", images), "arrays", True),
    "mmf lmdb": (lambda folder, images: foreign.write_lmdb(folder / "coco.lmdb", images), "lmdb", True),
    "vilbert lmdb": (
        lambda folder, images: foreign.write_lmdb(folder / "db", images, foreign.base64_entry),
        "lmdb",
        True,
    ),
    "bottom-up": (lambda folder, images: foreign.write_hdf5(folder / "train36.hdf5", images), "hdf5", False),
    "ban": (lambda folder, images: foreign.write_ban(folder / "train.hdf5", images), "hdf5", False),
    "own, chunked": (
        lambda folder, images: foreign.write_own(folder / "other.h5", images, compression="gzip"),
        "hdf5",
        True,
    ),
}


def assert_holds(path, images, dtype="float16", sizes=True):
    """The images in any order."""
    wanted = expected(images, dtype)
    with h5py.File(path) as file:
        rows = np.argsort(file["image_id"][:])
        order = np.argsort(wanted["image_id"])
        for name in ("image_id", "features"):
            np.testing.assert_array_equal(file[name][:][rows], wanted[name][order])
        np.testing.assert_allclose(file["boxes"][:][rows], wanted["boxes"][order], rtol=1e-6)
        np.testing.assert_array_equal(file["size"][:][rows], wanted["size"][order] if sizes else 0)
        assert file["features"].dtype == dtype and file["features"].chunks is None
        counts = [len(image.boxes) for image in images]
        assert ("num_boxes" in file) == (len(set(counts)) > 1)
        if "num_boxes" in file:
            np.testing.assert_array_equal(file["num_boxes"][:][rows], np.array(counts)[order])


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("options", [(), ("--dtype", "float32")])
def test_every_layout_is_recognised_and_converted(tmp_path, capsys, name, options):
    write, format, sizes = WRITERS[name]
    images = sample_images(width=6)
    source, target = write(tmp_path, images), tmp_path / "new" / "out.h5"
    assert convert(source, target, *options) == 0, capsys.readouterr().err
    assert_holds(target, images, *options[1:], sizes=sizes)
    assert os.listdir(target.parent) == ["out.h5"]
    assert convert(source, target, "--format", format, *options) == 0
    assert "verified" in capsys.readouterr().out.splitlines()[-1]
    features, _, mask = RegionFeatures(target).read([int(images[2].id)])
    np.testing.assert_array_equal(features[0], images[2].features.astype(features.dtype))
    assert mask is None


@pytest.mark.parametrize("name", sorted(set(WRITERS) - {"bottom-up", "own, chunked"}))
def test_differing_numbers_of_boxes(tmp_path, name):
    write, _, sizes = WRITERS[name]
    images = sample_images(regions=[2, 4, 1, 3, 3, 2, 1], width=6)
    assert convert(write(tmp_path, images), tmp_path / "out.h5") == 0
    assert_holds(tmp_path / "out.h5", images, sizes=sizes)


@pytest.mark.parametrize("name", WRITERS)
def test_nan_is_refused_with_the_record(tmp_path, capsys, name):
    images = sample_images(count=3, width=6)
    images[1].features[2, 3] = np.nan
    assert convert(WRITERS[name][0](tmp_path, images), tmp_path / "out.h5") == 2
    error = capsys.readouterr().err.strip()
    assert images[1].id in error and "NaN" in error and "\n" not in error
    assert not {"out.h5", "out.h5.part"} & set(os.listdir(tmp_path))


def test_an_input_that_has_changed_wants_overwrite(tmp_path, capsys):
    images = sample_images(width=6)
    for name, (write, _, _) in WRITERS.items():
        folder = tmp_path / name.replace(" ", "-")
        folder.mkdir()
        source = write(folder, images)
        assert convert(source, folder / "out.h5") == 0
        os.utime(min(path for path in [source, *source.rglob("*")] if path.is_file()), (1, 1))
        assert convert(source, folder / "out.h5") == 2, name
        assert "--overwrite" in capsys.readouterr().err


def test_pickled_features_are_refused_with_a_pointer_to_the_tsv(tmp_path, capsys):
    """The authors' 36 GB pickle is made from the TSV; nothing in it is read."""
    source = tmp_path / "vqa_img_feature_trainval.pickle"
    source.write_bytes(b"cos\nsystem\n(S'touch made'\ntR.")
    assert convert(source, tmp_path / "out.h5") == 2
    assert f"{source}: pickled features are not read; convert the TSV" in capsys.readouterr().err
    assert os.listdir(tmp_path) == [source.name]


def test_a_folder_without_features_is_refused(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    assert convert(tmp_path / "in", tmp_path / "out.h5") == 2
    assert "looks like none of" in capsys.readouterr().err
    assert convert(tmp_path / "in", tmp_path / "out.h5", "--format", "arrays") == 2
    assert "in: holds no .npz or .npy file with features" in capsys.readouterr().err
