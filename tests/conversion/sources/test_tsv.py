"""The two published TSV formats, read line by line."""

import os
import zlib

import numpy as np
import pytest

from cdvqa.conversion.sources import open_features, tsv
from cdvqa.errors import InputError
from tests.tools.features_tsv import bottom_up, expected, lxmert, sample_images, write_tsv


def silent(step, done, total):
    pass


@pytest.mark.parametrize("line, format", [(bottom_up, "bottom-up"), (lxmert, "lxmert")])
def test_index_and_images(tmp_path, line, format):
    images = sample_images(regions=[2, 4, 1, 3])
    path = write_tsv(tmp_path / "in.tsv", images, line)
    source = open_features(path)
    index = source.index(silent)
    lines = path.read_bytes().splitlines(keepends=True)
    assert source.format == format and source.digest == f"crc32 {zlib.crc32(path.read_bytes()):08x}"
    assert index.image_id.tolist() == [int(image.id) for image in images]
    assert index.size.tolist() == [[image.width, image.height] for image in images]
    assert index.num_boxes.tolist() == [2, 4, 1, 3] and index.region_width == 5
    assert index.place[:, 0].tolist() == [sum(map(len, lines[:i])) for i in range(4)]
    wanted = expected(images, "float32")
    for row, image in zip([1, 3], source.images(index[1::2]), strict=True):
        assert image.where == f"{path}: line {row + 1} (image {images[row].id})"
        np.testing.assert_array_equal(image.features, images[row].features)
        np.testing.assert_array_equal(image.boxes, wanted["boxes"][row, : len(image.boxes)])


@pytest.mark.parametrize("piece", [1, 7, 100, 1000])
def test_pieces_of_any_size(tmp_path, monkeypatch, piece):
    path = write_tsv(tmp_path / "in.tsv", sample_images(regions=[2, 4, 1, 3]))
    whole = open_features(path)
    index = whole.index(silent)
    monkeypatch.setattr(tsv, "_PIECE", piece)
    source = open_features(path)
    np.testing.assert_array_equal(source.index(silent).place, index.place)
    assert source.digest == whole.digest


def test_carriage_returns(tmp_path):
    images = sample_images()
    path = write_tsv(tmp_path / "in.tsv", images)
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    source = open_features(path)
    for image, read in zip(images, source.images(source.index(silent)), strict=True):
        np.testing.assert_array_equal(read.features, image.features)


def test_a_line_longer_than_any_sensible_one(tmp_path, monkeypatch):
    monkeypatch.setattr(tsv, "_PIECE", 16)
    monkeypatch.setattr(tsv, "_LONGEST_LINE", 256)
    (tmp_path / "in.tsv").write_bytes(bytes(1000))
    with pytest.raises(InputError, match=r"in\.tsv: 256 bytes without a line break; no lxmert TSV"):
        open_features(tmp_path / "in.tsv", "lxmert").index(silent)


def test_a_file_that_was_cut_after_its_index(tmp_path):
    path = write_tsv(tmp_path / "in.tsv", sample_images())
    source = open_features(path)
    index = source.index(silent)
    os.truncate(path, path.stat().st_size - 3)
    with pytest.raises(InputError, match="the file changed while it was read"):
        list(source.images(index))
