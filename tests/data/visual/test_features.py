"""The feature file: reads equal what was written, in any storage and any process; broken files are named."""

import gc
import json
import multiprocessing
import os
import pickle
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdvqa.conversion.sources.hdf5 import Hdf5Features
from cdvqa.data.visual import features as features_module
from cdvqa.data.visual.features import RegionFeatures, write_features
from cdvqa.errors import InputError
from tests.data.toy import IMAGES, REGIONS, WIDTH, write_toy_features
from tests.forking import SERVER

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
        {"dtype": np.float64},
        {"dtype": np.float16, "chunks": (5, 1, 3), "compression": "lzf"},
        {"chunks": (1, REGIONS, WIDTH)},
        {"chunks": True, "compression": "gzip"},
    ],
)
def test_reads_equal_what_was_written(tmp_path, storage):
    written = write_toy_features(tmp_path / "features.h5")
    rewrite(tmp_path / "features.h5", **storage)
    reader = RegionFeatures(tmp_path / "features.h5")
    handed_out = np.float16 if storage.get("dtype") == np.float16 else np.float32
    expected = written["features"].astype(storage.get("dtype", np.float32)).astype(handed_out)
    for ids in (IDS, IDS[::-1], np.arange(IMAGES), IDS[:0]):
        features, boxes, mask = reader.read(ids)
        np.testing.assert_array_equal(features, expected[IMAGES - 1 - ids])
        np.testing.assert_array_equal(boxes, written["boxes"][IMAGES - 1 - ids])
        assert mask is None and features.dtype == handed_out == reader.dtype and boxes.dtype == np.float32
    assert reader.shape == (IMAGES, REGIONS, WIDTH) and len(reader) == IMAGES


def test_a_given_buffer_is_filled(tmp_path):
    write_toy_features(tmp_path / "features.h5")
    reader = RegionFeatures(tmp_path / "features.h5")
    buffer = np.full((len(IDS) + 1, REGIONS, WIDTH), 7, np.float32)
    features, _, _ = reader.read(IDS, out=buffer[:-1])
    assert np.shares_memory(features, buffer) and (buffer[-1] == 7).all()
    np.testing.assert_array_equal(buffer[:-1], reader.read(IDS)[0])


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


@pytest.mark.parametrize("context", [multiprocessing.get_context("fork"), SERVER], ids=["fork", "forkserver"])
@pytest.mark.parametrize("storage", [{}, {"chunks": True}])
def test_processes_read_the_same_whether_forked_or_pickled_to(tmp_path, context, storage):
    write_toy_features(tmp_path / "features.h5")
    rewrite(tmp_path / "features.h5", **storage)
    reader = RegionFeatures(tmp_path / "features.h5")
    here = reader.read(IDS)[0]  # the parent holds the file open when the child starts
    queue = context.Queue()
    process = context.Process(target=_read_in_child, args=(reader, queue))
    process.start()
    there = queue.get(timeout=60)
    process.join(60)
    np.testing.assert_array_equal(here, there)


@pytest.mark.parametrize("storage", [{}, {"chunks": True}])
def test_a_pickled_reader_reads_the_same_and_carries_no_features(tmp_path, storage):
    write_toy_features(tmp_path / "features.h5", features=np.ones((IMAGES, REGIONS, 1000), np.float32))
    rewrite(tmp_path / "features.h5", **storage)
    reader = RegionFeatures(tmp_path / "features.h5")
    reader.read(IDS)
    pickled = pickle.dumps(reader)
    assert len(pickled) < 4000
    np.testing.assert_array_equal(pickle.loads(pickled).read(IDS)[0], reader.read(IDS)[0])


@pytest.mark.parametrize("storage", [{}, {"chunks": (1, REGIONS, WIDTH), "compression": "gzip"}])
def test_threads_read_at_once(tmp_path, storage):
    written = write_toy_features(tmp_path / "features.h5")
    rewrite(tmp_path / "features.h5", **storage)
    reader = RegionFeatures(tmp_path / "features.h5")
    batches = [np.random.default_rng(i).integers(0, IMAGES, 9) for i in range(64)]
    with ThreadPoolExecutor(8) as threads:
        for ids, (features, _, _) in zip(batches, threads.map(reader.read, batches), strict=True):
            np.testing.assert_array_equal(features, written["features"][IMAGES - 1 - ids])


def test_a_reader_closes_its_files(tmp_path):
    write_toy_features(tmp_path / "features.h5")
    gc.collect()  # files of earlier tests
    before = len(os.listdir("/proc/self/fd"))
    reader = RegionFeatures(tmp_path / "features.h5")
    assert len(os.listdir("/proc/self/fd")) > before
    del reader
    assert len(os.listdir("/proc/self/fd")) == before


@given(st.integers(0, 0xFFFF))
def test_every_half_precision_number_is_finite_as_numpy_says(bits):
    value = np.array([1, bits, 0x8001], np.uint16).view(np.float16)
    assert features_module._all_finite(value) == bool(np.isfinite(value).all())


def test_fingerprint_sees_a_changed_feature(tmp_path):
    arrays = write_toy_features(tmp_path / "features.h5")
    fingerprint = RegionFeatures(tmp_path / "features.h5").fingerprint()
    assert fingerprint["shape"] == [IMAGES, REGIONS, WIDTH] and fingerprint["dtype"] == "float32"
    write_toy_features(tmp_path / "features.h5", features=arrays["features"] + 1)
    other = RegionFeatures(tmp_path / "features.h5").fingerprint()
    assert other["sample_sha256"] != fingerprint["sample_sha256"]


def test_fingerprint_is_measured_where_the_file_has_none_and_kept_where_it_has_one(tmp_path):
    path = tmp_path / "features.h5"
    num_boxes = np.arange(IMAGES) % REGIONS + 1
    features = write_toy_features(path, num_boxes=num_boxes)["features"]
    used = np.arange(REGIONS) < num_boxes[:, None]
    measured = RegionFeatures(path).fingerprint()
    norm = np.sqrt((features[used].astype(np.float64) ** 2).sum(1)).mean()
    assert measured["images"] == IMAGES and measured["norm"]["mean"] == pytest.approx(norm, rel=1e-5)
    stored = {"extractor": "somebody's", "sha256": "abc", "norm": {"mean": 3.0}, "shape": "stale"}
    with h5py.File(path, "r+") as file:
        file.attrs["fingerprint"] = json.dumps(stored)
    assert RegionFeatures(path).fingerprint() == measured  # somebody else's attribute of that name
    with h5py.File(path, "r+") as file:
        file.attrs["format"] = "cdvqa region features"
    kept = RegionFeatures(path).fingerprint()
    assert kept == stored | {name: measured[name] for name in ("shape", "dtype", "sample_sha256")}
    assert json.loads(json.dumps(kept)) == kept


@pytest.mark.parametrize(("attributes", "read"), [((1,), True), ((2,), False), (("2.0",), True), ((7, "mmf"), True)])
def test_a_file_of_a_later_version_is_refused(tmp_path, attributes, read):
    path = tmp_path / "features.h5"
    write_toy_features(path)
    with h5py.File(path, "r+") as file:
        file.attrs.update(dict(zip(("version", "format"), attributes, strict=False)))
    if read:
        assert len(RegionFeatures(path)) == IMAGES
    else:
        with pytest.raises(InputError, match=r"features\.h5: a file of version 2, and this cdvqa reads up to 1"):
            RegionFeatures(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_features_that_are_not_finite_name_the_image(tmp_path, value, dtype):
    arrays = write_toy_features(tmp_path / "features.h5")
    arrays["features"] = arrays["features"].astype(dtype)
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
        (lambda path: write_h5(path, boxes=np.zeros((4, 3, 5))), r"boxes must be \(4, 3, 4\) floats like features"),
        (lambda path: write_h5(path, image_id=np.arange(3)), "image_id must be 4 integers"),
        (lambda path: write_h5(path, image_id=np.array([1, 2, 1, 3])), "duplicate image 1"),
    ],
)
def test_broken_files_are_named(tmp_path, damage, message):
    path = tmp_path / "features.h5"
    write_toy_features(path)
    damage(path)
    with pytest.raises(InputError, match=message):
        RegionFeatures(path)


def _external_link(path, other):
    with h5py.File(path, "r+") as file:
        del file["features"]
        file["features"] = h5py.ExternalLink(other, "/features")
    return "features is a link"


def _soft_link(path, other):
    with h5py.File(path, "r+") as file:
        file.move("features", "elsewhere")
        file["features"] = h5py.SoftLink("/elsewhere")
    return "features is a link"


def _external_storage(path, other):
    with h5py.File(path, "r+") as file:
        shape, size = file["features"].shape, file["features"].nbytes
        del file["features"]
        file.create_dataset("features", shape, "f4", external=[(other, 0, size)])
    return "features is stored in other files"


def _virtual(path, other):
    with h5py.File(path, "r+") as file:
        layout = h5py.VirtualLayout(file["features"].shape, "f4")
        layout[:] = h5py.VirtualSource(other, "features", file["features"].shape)
        del file["features"]
        file.create_virtual_dataset("features", layout)
    return "features is stored in other files"


def _absurd_chunk(path, other):
    with h5py.File(path, "r+") as file:
        del file["features"]
        file.create_dataset("features", (IMAGES, 1 << 14, 1 << 14), "f2", chunks=(1, 1 << 14, 1 << 14))
    return "a chunk of features has 536,870,912 bytes"


def _absurd_length(path, other):
    with h5py.File(path, "r+") as file:
        del file["image_id"]
        file.create_dataset("image_id", (1 << 60,), "i8", chunks=(8,))
    return "image_id cannot be"


def _boxes_not_finite(path, other):
    with h5py.File(path, "r+") as file:
        file["boxes"][IMAGES - 1, 1, 2] = np.inf
    return "image 0 has NaN or infinite boxes"


@pytest.mark.parametrize(
    "spoil",
    [_external_link, _soft_link, _external_storage, _virtual, _absurd_chunk, _absurd_length, _boxes_not_finite],
)
@pytest.mark.parametrize("name", ["features.h5", "pipe"])
def test_data_sets_of_other_files_and_absurd_sizes_are_refused(tmp_path, spoil, name):
    """The first were read at the other file's offset in this file; a pipe that a link points to would block."""
    path, other = tmp_path / "features.h5", tmp_path / f"other-{name}"
    write_toy_features(path)
    os.mkfifo(other) if name == "pipe" else write_toy_features(other)
    message = spoil(path, str(other))
    with pytest.raises(InputError, match=message) as error:
        RegionFeatures(path).read(np.arange(IMAGES))
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)
    if spoil is not _boxes_not_finite:
        with pytest.raises(InputError, match=message):
            Hdf5Features(path)


def write_h5(path, **changes):
    arrays = {"features": np.zeros((4, 3, 2)), "boxes": np.zeros((4, 3, 4)), "image_id": np.arange(4)} | changes
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            if array is not None:
                file[name] = array


def test_damaged_compressed_features_are_named(tmp_path):
    path = tmp_path / "features.h5"
    write_toy_features(path)
    rewrite(path, chunks=(IMAGES, REGIONS, WIDTH), compression="gzip")
    with h5py.File(path) as file:
        chunk = file["features"].id.get_chunk_info(0)
    with path.open("r+b") as file:
        file.seek(chunk.byte_offset)
        file.write(b"\xff" * chunk.size)
    with pytest.raises(InputError, match=r"features\.h5: /features cannot be read"):
        RegionFeatures(path).read(IDS)


def test_a_file_cut_off_while_open_is_named(tmp_path):
    path = tmp_path / "features.h5"
    write_toy_features(path)
    reader = RegionFeatures(path)
    os.truncate(path, 2500)
    with pytest.raises(InputError, match=r"/(features|boxes) cannot be read \(the file ends inside it\)"):
        reader.read(np.arange(IMAGES))
