"""LMDB of pickled dicts, one an image."""

import builtins
import gc
import os
import pickle

import lmdb
import numpy as np
import pytest

from cdvqa.conversion.sources import lmdb as lmdb_source
from cdvqa.conversion.sources.lmdb import LmdbFeatures
from cdvqa.errors import InputError
from tests.conversion.sources.foreign import (
    assert_reads,
    base64_entry,
    mmf_entry,
    read,
    shares,
    vilbert_entry,
    write_lmdb,
)
from tests.tools.features_tsv import sample_images


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("entry", [mmf_entry, vilbert_entry, base64_entry])
@pytest.mark.parametrize(("regions", "width"), [([2, 4, 1], 5), (36, 300)])
def test_published_entries(tmp_path, protocol, entry, regions, width):
    images = sample_images(count=3, regions=regions, width=width)
    path = write_lmdb(tmp_path / "coco.lmdb", images, entry, protocol=protocol)
    assert LmdbFeatures.recognises(path)
    assert_reads(LmdbFeatures(path), images)


@pytest.mark.parametrize("key", ["COCO_train2014_{:0>12}", "train2014/COCO_train2014_{:0>12}", "{}.jpg"])
def test_keys_with_names(tmp_path, key):
    images = sample_images()
    assert_reads(LmdbFeatures(write_lmdb(tmp_path / "db", images, key=key)), images)


def test_a_single_file(tmp_path):
    images = sample_images()
    path = write_lmdb(tmp_path / "coco.lmdb", images, subdir=False)
    assert path.is_file() and LmdbFeatures.recognises(path)
    assert_reads(LmdbFeatures(path), images)


def test_more_images_than_one_mapping_holds(tmp_path, monkeypatch):
    monkeypatch.setattr(lmdb_source, "_AT_ONCE", 2)
    images = sample_images(count=7)
    assert_reads(LmdbFeatures(write_lmdb(tmp_path / "db", images)), images)


def test_regions_beyond_num_boxes_are_padding(tmp_path):
    image = sample_images(count=1, regions=5)[0]
    padded = write_lmdb(tmp_path / "db", [image], lambda image: vilbert_entry(image) | {"num_boxes": 3})
    features, boxes, _ = read(LmdbFeatures(padded))[1000]
    np.testing.assert_array_equal(features, image.features[:3])
    np.testing.assert_allclose(boxes, shares(image)[:3])


def test_boxes_may_be_shares_already(tmp_path):
    images = sample_images()
    assert_reads(
        LmdbFeatures(write_lmdb(tmp_path / "db", images, lambda i: mmf_entry(i) | {"bbox": shares(i)})), images
    )


def test_reading_leaves_the_file_alone(tmp_path):
    path = write_lmdb(tmp_path / "db", sample_images())
    source = LmdbFeatures(path)
    before = source.identity, os.listdir(path)
    gc.collect()  # files of earlier tests
    descriptors = len(os.listdir("/proc/self/fd"))
    read(source)
    assert (source.identity, os.listdir(path)) == before
    assert len(os.listdir("/proc/self/fd")) == descriptors


# --- wrong input ----------------------------------------------------------------------------------------------------


def refused(source, message):
    with pytest.raises(InputError, match=message) as error:
        read(source)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_without_the_package(tmp_path, monkeypatch):
    path = write_lmdb(tmp_path / "db", sample_images())
    original = builtins.__import__

    def without(name, *rest):
        if name == "lmdb":
            raise ImportError(name)
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"db: reading LMDB wants a package more: pip install cdvqa\[lmdb\]"):
        LmdbFeatures(path)


def test_no_lmdb(tmp_path):
    with pytest.raises(InputError, match=r"none/?.*: no such file"):
        LmdbFeatures(tmp_path / "none")
    (tmp_path / "x.lmdb").write_bytes(b"not LMDB" * 10000)
    with pytest.raises(InputError, match=r"x\.lmdb: not a readable LMDB \("):
        LmdbFeatures(tmp_path / "x.lmdb")


@pytest.mark.parametrize("missing", [1, 4096, 100_000])
def test_cut_off(tmp_path, missing):
    path = write_lmdb(tmp_path / "db", sample_images(regions=36, width=500))
    size = (path / "data.mdb").stat().st_size
    os.truncate(path / "data.mdb", size - missing)
    with pytest.raises(
        InputError, match=rf"data\.mdb: ends after {size - missing:,} of {size:,} bytes; fetch it again"
    ):
        LmdbFeatures(path)


def test_other_layouts(tmp_path):
    with lmdb.open(str(tmp_path / "uniter")) as environment, environment.begin(write=True) as entries:
        entries.put(b"coco_train2014_000000000009.npz", b"\x85\xa8features")
    with pytest.raises(InputError, match="has no entry 'keys', as the LMDBs of mmf and ViLBERT have"):
        LmdbFeatures(tmp_path / "uniter")
    for number, keys in enumerate([{"a": 1}, [1, 2]]):
        path = write_lmdb(tmp_path / f"{number}", sample_images(), keys=keys)
        with pytest.raises(InputError, match="its entry 'keys' is no list of keys"):
            LmdbFeatures(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": None}, "key '1000': holds no features or x"),
        ({"bbox": None}, "key '1000': holds no sp_feats or norm_bb or bbox"),
        ({"bbox": np.ones((3, 5))}, r"key '1000': 'bbox' is \(3, 5\), not one row of 4 numbers a box"),
        ({"features": np.ones((4, 9))}, r"key '1000': 'features' is \(4, 9\), which does not fit 3 boxes"),
        ({"num_boxes": 4}, "key '1000': num_boxes is 4, but there are 3 boxes"),
        ({"num_boxes": -1}, "key '1000': num_boxes must be a positive whole number"),
        ({"num_boxes": "many"}, "key '1000': num_boxes must be a positive whole number"),
        ({"image_width": 0}, "key '1000': image_width must be a positive whole number"),
        ({"image_width": None}, "key '1000': boxes are in pixels and the image's width and height are missing"),
        ({"image_height": 3}, "key '1000': boxes reach out of the image of .* x 3 pixels; its size is wrong"),
        ({"features": b"not base64!"}, "key '1000': 'features' cannot be read"),
        ({"features": b"AAAA"}, "key '1000': 'features' cannot be read"),
        ({"features": np.full((3, 5), "a")}, "key '1000': 'features' is <U1"),
        ({"features": np.array([[{} for _ in range(5)] for _ in range(3)])}, r"key '1000': 'features' is object"),
    ],
)
def test_wrong_entries(tmp_path, change, message):
    images = sample_images(count=2)
    path = write_lmdb(tmp_path / "db", images, lambda i: mmf_entry(i) | (change if i is images[0] else {}))
    assert refused(LmdbFeatures(path), message).startswith(str(path))


def test_keys_and_entries_disagree(tmp_path):
    images = sample_images(count=2)
    source = LmdbFeatures(write_lmdb(tmp_path / "gone", images, keys=[b"1000", b"5"]))
    refused(source, "key '5': it is listed in 'keys' but not there; fetch the LMDB again")
    source = LmdbFeatures(write_lmdb(tmp_path / "twice", images, keys=[b"1000", b"1000"]))
    refused(source, "key '1000': image 1000 is in .*key '1000' too")
    refused(
        LmdbFeatures(write_lmdb(tmp_path / "names", images, key="n{}x")), "key 'n1000x': 'n1000x' holds no image id"
    )


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_no_code_is_run(tmp_path):
    images, made = sample_images(), tmp_path / "made"
    path = write_lmdb(tmp_path / "entry", images, lambda i: Malicious(made))
    refused(LmdbFeatures(path), r"key '1000': not a pickle of plain values and arrays \(it asks for posix.mkdir")
    path = write_lmdb(tmp_path / "keys", images, keys=Malicious(made))
    with pytest.raises(
        InputError, match=r"keys: keys: not a pickle of plain values and arrays \(it asks for posix.mkdir"
    ):
        LmdbFeatures(path)
    assert not made.exists()


def test_an_entry_that_is_cut_off(tmp_path):
    image = sample_images(count=1)[0]
    content = pickle.dumps(mmf_entry(image))
    path = write_lmdb(tmp_path / "db", [image])
    with lmdb.open(str(path)) as environment, environment.begin(write=True) as entries:
        entries.put(b"1000", content[: len(content) // 2])
    refused(LmdbFeatures(path), "key '1000': not a pickle of plain values and arrays")
