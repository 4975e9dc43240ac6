"""Pickles larger than the memory, read array by array."""

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cdvqa.conversion.sources.pickled import PickledFeatures
from cdvqa.errors import InputError
from tests.conversion.python2 import dumps_python2
from tests.conversion.sources.foreign import Image, assert_reads, authors_dict, read, sample_images, write_pickle


def ignore(step, done, total):
    pass


@pytest.mark.parametrize("protocol", [1, 2, 3, 4, 5])
@pytest.mark.parametrize(("regions", "width"), [(2, 3), (36, 2048)])  # within frames, and outside of them
def test_every_protocol(tmp_path, protocol, regions, width):
    images = sample_images(count=3, regions=regions, width=width)
    path = write_pickle(tmp_path / "features.pickle", authors_dict(images), protocol)
    assert PickledFeatures.recognises(path)
    assert_reads(PickledFeatures(path), images, sizes=False)


def test_arrays_as_the_published_script_makes_them(tmp_path):
    images = sample_images(count=2, regions=36, width=2048)
    content = {
        image.id: {
            "feats": np.frombuffer(image.features.tobytes(), np.float32).reshape(36, -1),
            "sp_feats": np.concatenate([image.boxes[:, :2] / size, image.boxes[:, 2:] / size], 1),
        }
        for image in images
        for size in [np.array([image.width, image.height])]
    }
    assert_reads(PickledFeatures(write_pickle(tmp_path / "features.pickle", content)), images, sizes=False)


@pytest.mark.parametrize("width", [3, 2048])
def test_python_2(tmp_path, width):
    images = sample_images(count=3, regions=4, width=width)
    path = tmp_path / "features.pkl"
    path.write_bytes(dumps_python2(authors_dict(images)))
    assert_reads(PickledFeatures(path), images, sizes=False)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    protocol=st.integers(1, 5),
    order=st.sampled_from("CF"),
    kind=st.sampled_from(["<f2", "<f4", ">f4", "<f8"]),
    regions=st.integers(1, 40),
    width=st.integers(1, 40),
)
def test_any_type_order_and_shape(tmp_path, protocol, order, kind, regions, width):
    image = sample_images(count=1, regions=regions, width=width)[0]
    features = image.features.astype(kind, order=order)
    content = {7: {"feats": features, "sp_feats": np.zeros((regions, 4))}}
    (read_features, boxes, _), *_ = read(PickledFeatures(write_pickle(tmp_path / "f.pkl", content, protocol))).values()
    np.testing.assert_array_equal(read_features, features)
    assert not boxes.any()


def test_images_that_share_an_array(tmp_path):
    images = sample_images(count=2)
    twins = [images[0], images[1]._replace(features=images[0].features)]
    assert_reads(PickledFeatures(write_pickle(tmp_path / "f.pkl", authors_dict(twins))), twins, sizes=False)


def test_pixels_and_sizes(tmp_path):
    images = sample_images()
    content = {
        image.id: {"features": image.features, "boxes": image.boxes, "image_w": image.width, "image_h": image.height}
        for image in images
    }
    assert_reads(PickledFeatures(write_pickle(tmp_path / "f.pkl", content)), images)


class Hole:
    """An array of zeros that is passed over when it is written."""

    def __init__(self, *shape):
        self.shape = shape

    def __reduce__(self):
        rebuild, arguments, (version, _, kind, fortran, _) = np.zeros((1, 1), np.float32).__reduce__()
        return rebuild, arguments, (version, self.shape, kind, fortran, Content(4 * self.shape[0] * self.shape[1]))


class Content(int):
    pass


class SparsePickler(pickle._Pickler):
    def save_content(self, content):
        self.write(pickle.BINBYTES + int(content).to_bytes(4, "little"))
        self.file.seek(content, 1)
        self.memoize(content)

    dispatch = pickle._Pickler.dispatch | {Content: save_content}


def test_memory_does_not_grow_with_the_pickle(tmp_path):
    path = tmp_path / "features.pickle"
    with path.open("wb") as file:
        pickler = SparsePickler(file, 3)
        pickler.file = file
        pickler.dump({i: {"feats": Hole(5000, 2048), "sp_feats": Hole(5000, 4)} for i in range(200)})
    assert path.stat().st_size > 8e9 and path.stat().st_blocks * 512 < 1e8
    program = (
        "import re, sys; from pathlib import Path; from cdvqa.conversion.sources.pickled import PickledFeatures\n"
        "source = PickledFeatures(sys.argv[1]); index = source.index(lambda *told: None)\n"
        "peak = int(re.search(r'VmHWM:\\s+(\\d+) kB', Path('/proc/self/status').read_text())[1])\n"
        "shapes = [image.features.shape for image in source.images(index[:4])]\n"
        "print(len(index.image_id), shapes[-1], peak < 2 ** 18)"
    )
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["200", "(5000,", "2048)", "True"]  # 256 MB, of more than 8 GB


# --- wrong input ----------------------------------------------------------------------------------------------------


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", [1, 2, 3, 4, 5])
def test_no_code_is_run(tmp_path, protocol):
    content = authors_dict(sample_images()) | {"5": Malicious(tmp_path / "made")}
    path = write_pickle(tmp_path / "f.pkl", content, protocol)
    with pytest.raises(InputError, match=r"f\.pkl: not a pickle of plain values and arrays \(it asks for posix\.mkdir"):
        PickledFeatures(path).index(ignore)
    assert not (tmp_path / "made").exists()


def table(*shape):
    return np.ones(shape, np.float32) / 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds list, not a dict of images"),
        ({}, "holds no image"),
        ({"5": 1}, "image 5: holds int, not a dict"),
        ({"5": {"feats": table(2, 3)}}, "image 5: holds no sp_feats or norm_bb or bbox .* but feats"),
        ({"5": {"sp_feats": table(2, 4)}}, "image 5: holds no features or x or feats"),
        ({"5": {"feats": table(2, 5), "sp_feats": table(3, 4)}}, r"image 5: 'feats' is \(2, 5\), which does not fit 3"),
        ({"5": {"feats": table(2, 3), "sp_feats": table(2, 5)}}, r"image 5: 'sp_feats' is \(2, 5\)"),
        ({"5": {"feats": table(3), "sp_feats": table(3, 4)}}, "image 5: 'feats' is no table of floating-point"),
        ({"5": {"feats": table(0, 3), "sp_feats": table(0, 4)}}, "not a pickle of plain|'feats' is empty"),
        (
            {"5": {"feats": table(2, 3).astype(int), "sp_feats": table(2, 4)}},
            "image 5: 'feats' is no table of floating",
        ),
        ({"5": {"feats": [[1.0]], "sp_feats": table(1, 4)}}, "image 5: 'feats' is no table of floating-point"),
        ({"five": {"feats": table(2, 3), "sp_feats": table(2, 4)}}, "image five: 'five' holds no image id"),
    ],
)
def test_wrong_content(tmp_path, content, message):
    path = write_pickle(tmp_path / "f.pkl", content)
    with pytest.raises(InputError, match=message) as error:
        read(PickledFeatures(path))
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_an_image_twice_or_of_another_width(tmp_path):
    one, other = sample_images(count=2)
    twice = authors_dict([one._replace(id="12"), other._replace(id="012")])
    with pytest.raises(InputError, match=r"image 012: image 12 is in .*: image 12 too"):
        PickledFeatures(write_pickle(tmp_path / "f.pkl", twice)).index(ignore)
    wide = authors_dict([one, Image("5", 9, 9, other.boxes, np.ones((3, 6), np.float32))])
    with pytest.raises(InputError, match=r"image 5: features are 6 wide, not 5 as in .*image 1000"):
        PickledFeatures(write_pickle(tmp_path / "f.pkl", wide)).index(ignore)


def test_no_such_file(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        PickledFeatures(tmp_path / "f.pkl")


def test_protocol_0_is_named(tmp_path):
    path = write_pickle(tmp_path / "f.pkl", authors_dict(sample_images(regions=36, width=500)), 0)
    with pytest.raises(InputError, match="protocol 0; write it with protocol 4"):
        PickledFeatures(path).index(ignore)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), protocol=st.integers(1, 5))
def test_damage_is_an_input_error_or_goes_unseen(tmp_path, data, protocol):
    content = bytearray(pickle.dumps(authors_dict(sample_images(count=2, regions=2, width=3)), protocol))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "f.pkl"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content)
    try:
        source = PickledFeatures(path)
        list(source.images(source.index(ignore)))
    except InputError as error:
        assert str(path) in str(error) and "\n" not in str(error)


def test_a_pickle_cut_off_anywhere(tmp_path):
    whole = pickle.dumps(authors_dict(sample_images(count=1, regions=2, width=3)), 4)
    path = tmp_path / "f.pkl"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"f\.pkl: not a pickle"):
            PickledFeatures(path).index(ignore)
