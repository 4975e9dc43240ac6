"""HDF5 in the layouts of the bottom-up baselines, of BAN and of cdvqa."""

import os
import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cdvqa.conversion.sources import hdf5
from cdvqa.conversion.sources.hdf5 import Hdf5Features
from cdvqa.data.visual import rows
from cdvqa.errors import InputError
from tests.conversion.sources.foreign import (
    assert_reads,
    read,
    shares,
    write_ban,
    write_hdf5,
    write_own,
    write_rows,
)
from tests.tools.features_tsv import sample_images

STORAGES = [{}, {"chunks": True}, {"compression": "gzip"}, {"compression": "lzf", "shuffle": True}]


@pytest.mark.parametrize("storage", STORAGES)
def test_bottom_up_attention_vqa(tmp_path, storage):
    images = sample_images()
    path = write_hdf5(tmp_path / "trainval36.hdf5", images, spare=2, **storage)
    assert Hdf5Features.recognises(path)
    assert_reads(Hdf5Features(path), images, sizes=False)


@pytest.mark.parametrize("storage", STORAGES)
def test_ban(tmp_path, storage):
    images = sample_images(regions=[2, 4, 1, 3, 3, 2, 1])
    assert_reads(Hdf5Features(write_ban(tmp_path / "train.hdf5", images, **storage)), images, sizes=False)


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8"])
def test_our_own_layout_in_any_storage(tmp_path, storage, dtype):
    images = sample_images()
    assert_reads(Hdf5Features(write_own(tmp_path / "f.h5", images, dtype, **storage)), images)


def test_our_own_layout_with_fewer_boxes(tmp_path):
    images = sample_images(regions=3)
    path = write_own(tmp_path / "f.h5", images)
    counts = [1, 3, 2, 3, 1, 1, 2]
    with h5py.File(path, "r+") as file:
        file["num_boxes"] = counts
        del file["size"]
    for count, image in zip(counts, images, strict=True):
        features, boxes, size = read(Hdf5Features(path))[int(image.id)]
        np.testing.assert_array_equal(features, image.features[:count])
        np.testing.assert_allclose(boxes, shares(image)[:count])
        assert size == (0, 0)


def test_pixels_are_divided_by_the_size_or_refused(tmp_path):
    images = sample_images()
    path = write_own(tmp_path / "f.h5", images)
    with h5py.File(path, "r+") as file:
        file["boxes"][:] = [image.boxes for image in images]
    assert_reads(Hdf5Features(path), images)
    with h5py.File(path, "r+") as file:
        del file["size"]
    refused(path, r"f\.h5: image 1000 \(row 0\): boxes are in pixels and the image's width and height are missing")


def test_the_extractor_of_our_own_files(tmp_path):
    path = write_own(tmp_path / "f.h5", sample_images())
    assert Hdf5Features(path).extractor is None
    with h5py.File(path, "r+") as file:
        file.attrs["fingerprint"] = '{"extractor": "grid"}'
    assert Hdf5Features(path).extractor == "grid"


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    chunk=st.tuples(st.integers(1, 9), st.integers(1, 3), st.integers(1, 5)),
    rows=st.permutations(range(11)),
    block=st.integers(1, 12),
    step=st.integers(1, 4),
)
def test_any_chunks_blocks_and_rows(tmp_path, monkeypatch, chunk, rows, block, step):
    """Rows in any order, some of them of no image, in chunks that do not fit the blocks they are read in."""
    monkeypatch.setattr(hdf5, "_BLOCK", block * 3 * 5 * 4)
    images, path = sample_images(count=8), tmp_path / "train36.hdf5"
    features = np.full((11, 3, 5), np.nan, np.float32)
    spatial = np.full((11, 3, 6), np.nan, np.float32)
    for row, image in zip(rows, images, strict=False):
        features[row], spatial[row, :, :4] = image.features, shares(image)
    with h5py.File(path, "w") as file:
        file.create_dataset("image_features", data=features, chunks=chunk)
        file.create_dataset("spatial_features", data=spatial, chunks=(2, 3, 1))
    write_rows(path, {int(image.id): row for row, image in zip(rows, images, strict=False)})
    source = Hdf5Features(path)
    assert_reads(source, images, sizes=False)
    index = source.index(lambda *reported: None)
    stepped = [image.features for image in source.images(index[::step])]
    by_row = sorted(zip(rows, images, strict=False), key=lambda pair: pair[0])
    np.testing.assert_array_equal(stepped, [image.features for _, image in by_row[::step]])


# --- wrong input ----------------------------------------------------------------------------------------------------


def refused(path, message):
    with pytest.raises(InputError, match=message) as error:
        read(Hdf5Features(path))
    assert "\n" not in str(error.value)


def test_no_hdf5(tmp_path):
    refused(tmp_path / "none.h5", "none.h5: no such file")
    (tmp_path / "f.h5").write_text("text")
    assert not Hdf5Features.recognises(tmp_path / "f.h5")
    refused(tmp_path / "f.h5", r"f\.h5: not a readable HDF5 file \(.*; fetch it again")


def test_cut_off(tmp_path):
    path = write_hdf5(tmp_path / "f.hdf5", sample_images(regions=36, width=100))
    os.truncate(path, path.stat().st_size // 2)
    refused(path, r"f\.hdf5: not a readable HDF5 file \(.*truncated")


def test_a_damaged_chunk(tmp_path):
    path = write_own(tmp_path / "f.h5", sample_images(count=20, regions=9, width=99), compression="gzip")
    with h5py.File(path) as file:
        offset = file["features"].id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[offset : offset + 64] = bytes(64)
    path.write_bytes(content)
    refused(path, r"f\.h5: not a readable HDF5 file \(.*; fetch it again")


def test_the_pickle_beside_it(tmp_path):
    path = write_hdf5(tmp_path / "train36.hdf5", sample_images(count=3))
    rows = tmp_path / "train36_imgid2idx.pkl"
    for content, message in (
        ([1], "train36_imgid2idx.pkl: not a dict from image ids to rows"),
        ({"a": 1}, "train36_imgid2idx.pkl: not a dict from image ids to rows"),
        ({}, "train36_imgid2idx.pkl: holds no image"),
        ({5: 0, "5": 1}, "train36_imgid2idx.pkl: duplicate image 5"),
        ({5: 0, 6: 0}, "train36_imgid2idx.pkl: duplicate row 0"),
        ({5: 0, 6: 3}, "train36_imgid2idx.pkl: image 6 has row 3, but train36.hdf5 has 3 images"),
        ({5: 0, 6: -1}, "train36_imgid2idx.pkl: image 6 has row -1, but"),
    ):
        rows.write_bytes(pickle.dumps(content))
        refused(path, message)
    rows.write_bytes(pickle.dumps(Path("x")))
    refused(path, r"train36_imgid2idx.pkl: not a pickle of plain values and arrays \(it asks for pathlib")
    rows.unlink()
    refused(path, r"train36.hdf5: train36_imgid2idx.pkl, which tells the image of each row, is missing beside it")


def change(path, **datasets):
    with h5py.File(path, "r+") as file:
        for name, values in datasets.items():
            if name in file:
                del file[name]
            if values is not None:
                file[name] = values
    return path


def test_other_layouts(tmp_path):
    images = sample_images(count=3)
    bottom_up = write_hdf5(tmp_path / "f.hdf5", images)
    refused(change(bottom_up, spatial_features=np.ones((3, 3, 5))), r"spatial_features is \(3, 3, 5\), not \(3, 3, 6\)")
    refused(change(bottom_up, spatial_features=None), "holds no 'spatial_features' but image_bb, image_features")
    refused(change(bottom_up, image_features=np.ones((3, 3))), "holds no 'spatial_features'")
    refused(change(bottom_up, image_features=None), "holds no 'image_features' but image_bb; convert the TSV")
    refused(change(bottom_up, **{"a\nb": np.ones(1)}), r"holds no 'image_features' but a\\nb, image_bb; convert")
    ban = write_ban(tmp_path / "b.hdf5", images)
    refused(change(ban, pos_boxes=np.array([[0, 3], [3, 3], [6, 9]])), "image 993 is said to have 0 boxes from row 3")
    refused(change(ban, pos_boxes=np.array([[0, 3], [3, 6], [6, 99]])), "image 986 is said to have 93 boxes from row 6")
    refused(
        change(ban, pos_boxes=np.array([[-1, 3], [3, 6], [6, 9]])), "image 1000 is said to have 4 boxes from row -1"
    )
    refused(change(ban, pos_boxes=np.ones((3, 3), int)), r"pos_boxes is \(3, 3\), not \(3, 2\)")
    refused(change(ban, pos_boxes=np.ones((3, 2))), "pos_boxes holds float64, not integers")


def test_our_own_layout_gone_wrong(tmp_path):
    path = write_own(tmp_path / "f.h5", sample_images(count=3))
    refused(change(path, num_boxes=[1, 2, 4]), "image 986 is said to have 4 boxes from row 2 on")
    refused(change(path, num_boxes=[1, 2]), r"num_boxes is \(2,\), not \(3,\)")
    refused(change(path, num_boxes=None, image_id=[7, 5, 7]), "f.h5: duplicate image 7")
    refused(change(path, image_id=np.ones(3)), "image_id holds float64, not integers")
    refused(change(path, image_id=None), "holds no 'image_id' but boxes, features, size; convert the TSV")
    refused(change(path, image_id=[1, 2, 3], boxes=np.ones((3, 2, 4))), r"boxes is \(3, 2, 4\), not \(3, 3, 4\)")
    refused(change(path, features=np.ones((3, 3, 5), int)), "features holds int64, not floating-point numbers")
    refused(change(path, features=np.ones((3, 3))), r"features is \(3, 3\), not N, boxes, width")


def test_a_chunk_that_would_fill_the_memory(tmp_path, monkeypatch):
    path = write_own(tmp_path / "f.h5", sample_images(), chunks=(7, 3, 4))
    monkeypatch.setattr(rows, "LARGEST", 100)
    refused(path, "a chunk of features has 336 bytes; make them smaller with h5repack")
