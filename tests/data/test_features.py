"""The feature file: reads equal what was written, in any storage and any process; broken files are named."""

import multiprocessing
import os
import pickle

import h5py
import numpy as np
import pytest

from cdvqa.data.features import RegionFeatures, write_features
from cdvqa.errors import InputError
from tests.data.toy import IMAGES, REGIONS, WIDTH, write_toy_features

IDS = np.array([5, 0, 5, 11, 3])


def rewrite(path, **options):
    """Store the same arrays in another way: chunked, compressed, big-endian …"""
    with h5py.File(path) as file:
        arrays = {name: file[name][:] for name in file}
    dtype = options.pop("dtype", np.float32)
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            if name == "features":
                file.create_dataset(name, data=array.astype(dtype), **options)
            else:
                file[name] = array


@pytest.mark.parametrize(
    "storage",
    [
        {},
        {"dtype": np.float16},
        {"dtype": ">f4"},
        {"chunks": (1, REGIONS, WIDTH)},
        {"chunks": True, "compression": "gzip"},
    ],
)
def test_reads_equal_what_was_written(tmp_path, storage):
    written = write_toy_features(tmp_path / "features.h5")
    rewrite(tmp_path / "features.h5", **storage)
    reader = RegionFeatures(tmp_path / "features.h5")
    features, boxes, mask = reader.read(IDS)
    rows = IMAGES - 1 - IDS
    expected = written["features"][rows].astype(storage.get("dtype", np.float32)).astype(np.float32)
    np.testing.assert_array_equal(features, expected)
    np.testing.assert_array_equal(boxes, written["boxes"][rows])
    assert mask is None and features.dtype == boxes.dtype == np.float32
    assert reader.shape == (IMAGES, REGIONS, WIDTH) and len(reader) == IMAGES


def test_num_boxes_becomes_a_region_mask(tmp_path):
    num_boxes = np.arange(IMAGES) % REGIONS + 1
    write_toy_features(tmp_path / "features.h5", num_boxes=num_boxes)
    _, _, mask = RegionFeatures(tmp_path / "features.h5").read(IDS)
    assert mask.dtype == bool and mask.sum(1).tolist() == num_boxes[IMAGES - 1 - IDS].tolist()
    write_toy_features(tmp_path / "features.h5", num_boxes=num_boxes + 1)
    with pytest.raises(InputError, match="num_boxes must lie between 1 and 3"):
        RegionFeatures(tmp_path / "features.h5")


def _read_in_child(reader, queue):
    queue.put(reader.read(IDS)[0])


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("storage", [{}, {"chunks": True}])
def test_forked_and_spawned_processes_read_the_same(tmp_path, method, storage):
    write_toy_features(tmp_path / "features.h5")
    rewrite(tmp_path / "features.h5", **storage)
    reader = RegionFeatures(tmp_path / "features.h5")
    here = reader.read(IDS)[0]  # the parent holds the file open when the child starts
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    process = context.Process(target=_read_in_child, args=(reader, queue))
    process.start()
    there = queue.get(timeout=60)
    process.join(60)
    np.testing.assert_array_equal(here, there)


def test_no_open_handle_is_pickled(tmp_path):
    write_toy_features(tmp_path / "features.h5")
    reader = RegionFeatures(tmp_path / "features.h5")
    reader.read(IDS)
    copy = pickle.loads(pickle.dumps(reader))
    assert copy._features._source is None and reader._features._source is not None
    np.testing.assert_array_equal(copy.read(IDS)[0], reader.read(IDS)[0])


def test_fingerprint_sees_a_changed_feature(tmp_path):
    arrays = write_toy_features(tmp_path / "features.h5")
    fingerprint = RegionFeatures(tmp_path / "features.h5").fingerprint()
    assert fingerprint == RegionFeatures(tmp_path / "features.h5").fingerprint()
    assert fingerprint["shape"] == [IMAGES, REGIONS, WIDTH] and fingerprint["dtype"] == "float32"
    write_toy_features(tmp_path / "features.h5", features=arrays["features"] + 1)
    assert RegionFeatures(tmp_path / "features.h5").fingerprint()["sha256"] != fingerprint["sha256"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite_name_the_image(tmp_path, value):
    arrays = write_toy_features(tmp_path / "features.h5")
    arrays["features"][4, 1, 2] = value
    write_features(tmp_path / "features.h5", **arrays)
    reader = RegionFeatures(tmp_path / "features.h5")
    reader.read([0, 1])
    for _ in range(2):
        with pytest.raises(InputError, match=f"image {IMAGES - 1 - 4} has NaN or infinite features"):
            reader.read(np.arange(IMAGES))


def test_an_absent_image_is_named_with_its_question(tmp_path):
    write_toy_features(tmp_path / "features.h5")
    reader = RegionFeatures(tmp_path / "features.h5")
    with pytest.raises(InputError, match=r"features.h5: image 77 \(question 9\) is not in the feature file"):
        reader.read([3, 77], question_ids=[8, 9])
    with pytest.raises(InputError, match="image -1 is not"):
        reader.read([-1])


def _cut(path, by):
    os.truncate(path, path.stat().st_size - by)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "no such feature file"),
        (lambda path: path.write_bytes(b"not HDF5"), "not a readable HDF5 file"),
        (lambda path: _cut(path, 200), "not a readable HDF5 file"),
        (lambda path: write_h5(path, boxes=None), "lacks the data set 'boxes'"),
        (lambda path: write_h5(path, features=np.zeros((4, 6))), "features must be .images, regions, width. floats"),
        (lambda path: write_h5(path, features=np.zeros((4, 3, 2), int)), "features must be .* not .*int64"),
        (lambda path: write_h5(path, boxes=np.zeros((4, 3, 5))), r"boxes must be \(4, 3, 4\) like features"),
        (lambda path: write_h5(path, image_id=np.arange(3)), "image_id must be 4 integers"),
        (lambda path: write_h5(path, image_id=np.array([1, 2, 1, 3])), "image 1 stands in it twice"),
    ],
)
def test_broken_files_are_named(tmp_path, damage, message):
    path = tmp_path / "features.h5"
    write_toy_features(path)
    damage(path)
    with pytest.raises(InputError, match=message):
        RegionFeatures(path)


def write_h5(path, **changes):
    arrays = {"features": np.zeros((4, 3, 2)), "boxes": np.zeros((4, 3, 4)), "image_id": np.arange(4)} | changes
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            if array is not None:
                file[name] = array


def test_a_file_cut_off_while_open_is_named(tmp_path):
    path = tmp_path / "features.h5"
    write_toy_features(path)
    reader = RegionFeatures(path)
    os.truncate(path, 2500)
    with pytest.raises(InputError, match="the file ends inside /features"):
        reader.read(np.arange(IMAGES))
