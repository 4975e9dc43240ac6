"""`cdvqa prepare features` makes from published TSV files exactly what the arrays in them say."""

import json
import os
import zlib

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cdvqa.conversion.sources.source import FeatureSource
from cdvqa.data import RegionFeatures
from tests.tools.features_tsv import (
    assert_holds,
    bottom_up,
    convert,
    expected,
    interrupt,
    lxmert,
    sample_images,
    write_tsv,
)


@pytest.mark.parametrize("line", [bottom_up, lxmert])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_both_formats_are_recognised_and_converted(tmp_path, capsys, line, dtype):
    images = sample_images()
    source, target = write_tsv(tmp_path / "in.tsv", images, line), tmp_path / "new" / "out.h5"
    assert convert(source, target, "--dtype", dtype) == 0
    assert_holds(target, images, dtype)
    assert f"7 images, 3 x 5 {dtype}, {target.stat().st_size:,} bytes" in capsys.readouterr().out
    assert os.listdir(target.parent) == ["out.h5"]


def test_the_reader_reads_it_at_its_offset(tmp_path):
    images = sample_images()
    convert(write_tsv(tmp_path / "in.tsv", images), tmp_path / "out.h5")
    with h5py.File(tmp_path / "out.h5") as file:
        assert file["features"].id.get_offset() is not None
    reader = RegionFeatures(tmp_path / "out.h5")
    features, boxes, mask = reader.read([int(images[4].id), int(images[0].id)])
    np.testing.assert_array_equal(features[0], images[4].features.astype(np.float16).astype(np.float32))
    np.testing.assert_array_equal(boxes[1], expected(images)["boxes"][0])
    assert mask is None


def test_differing_numbers_of_boxes(tmp_path):
    images = sample_images(regions=[2, 4, 1])
    convert(write_tsv(tmp_path / "in.tsv", images), tmp_path / "out.h5")
    assert_holds(tmp_path / "out.h5", images)
    assert RegionFeatures(tmp_path / "out.h5").read([1000])[2].tolist() == [[True, True, False, False]]


def test_lxmert_image_names_and_a_last_line_without_a_break(tmp_path):
    images = [image._replace(id=f"COCO_val2014_{int(image.id):012}") for image in sample_images()]
    source = write_tsv(tmp_path / "in.tsv", images, lxmert)
    source.write_text(source.read_text().rstrip("\n"))
    assert convert(source, tmp_path / "out.h5") == 0
    assert_holds(tmp_path / "out.h5", images)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(regions=st.lists(st.integers(1, 4), min_size=1, max_size=6), width=st.integers(1, 7), block=st.integers(1, 4))
def test_any_shape_in_any_block_size(tmp_path, monkeypatch, regions, width, block):
    monkeypatch.setattr(FeatureSource, "images_per_block", block)
    images = sample_images(regions=regions, width=width)
    assert convert(write_tsv(tmp_path / "in.tsv", images, lxmert), tmp_path / "out.h5", "--overwrite") == 0
    assert_holds(tmp_path / "out.h5", images)
    assert convert(tmp_path / "in.tsv", tmp_path / "out.h5") == 0


# --- interruption and repetition ----------------------------------------------------------------------------------


def test_an_interrupted_conversion_goes_on(tmp_path, monkeypatch, capsys, blocks_of_two):
    images = sample_images(regions=[2, 4, 1, 3, 3, 2, 1])
    source, target, part = write_tsv(tmp_path / "in.tsv", images), tmp_path / "out.h5", tmp_path / "out.h5.part"
    with monkeypatch.context() as patch:
        interrupt(patch, after=2)
        assert convert(source, target) == 130
    assert part.exists() and not target.exists()
    with monkeypatch.context() as patch:
        rest = interrupt(patch, after=9)
        assert convert(source, target) == 0
    assert rest == [2, 3]  # of four blocks
    assert "resumed after 4 images" in capsys.readouterr().out
    assert_holds(target, images)
    assert not part.exists()
    assert convert(source, target) == 0


@pytest.mark.parametrize("rows", [slice(4, None), slice(0, 1)], ids=["no record", "damaged since"])
def test_a_block_that_does_not_hold_what_was_written_is_written_again(tmp_path, monkeypatch, blocks_of_two, rows):
    images = sample_images()
    source, target = write_tsv(tmp_path / "in.tsv", images), tmp_path / "out.h5"
    with monkeypatch.context() as patch:
        interrupt(patch, after=2)
        assert convert(source, target) == 130
    with h5py.File(tmp_path / "out.h5.part", "r+") as file:
        file["features"][rows] = np.nan
    assert convert(source, target) == 0
    assert_holds(target, images)


def test_a_part_that_was_killed_while_being_laid_out_is_begun_anew(tmp_path):
    images = sample_images()
    source = write_tsv(tmp_path / "in.tsv", images)
    (tmp_path / "out.h5.part").write_bytes(b"\x89HDF no more")
    assert convert(source, tmp_path / "out.h5") == 0
    assert_holds(tmp_path / "out.h5", images)


def test_a_finished_file_is_verified_and_left_alone(tmp_path, capsys):
    source, target = write_tsv(tmp_path / "in.tsv", sample_images()), tmp_path / "out.h5"
    convert(source, target)
    before = target.stat()
    assert convert(source, target, "--format", "bottom-up") == 0  # what auto had found
    assert "verified" in capsys.readouterr().out.splitlines()[-1]
    assert target.stat().st_mtime_ns == before.st_mtime_ns and target.stat().st_ino == before.st_ino


@pytest.mark.parametrize("name", ["features", "boxes", "image_id", "size", "conversion/place", "conversion/blocks"])
def test_a_finished_file_that_has_changed_is_found(tmp_path, capsys, name):
    source, target = write_tsv(tmp_path / "in.tsv", sample_images()), tmp_path / "out.h5"
    convert(source, target)
    with h5py.File(target, "r+") as file:
        file[name][0 if name == "conversion/blocks" else 3] = 5
    assert convert(source, target) == 2
    assert f"{target}: its content has changed" in capsys.readouterr().err


def test_anything_else_wants_overwrite(tmp_path, capsys):
    images, others = sample_images(), sample_images(seed=1)
    source, other = write_tsv(tmp_path / "in.tsv", images), write_tsv(tmp_path / "other.tsv", others)
    os.utime(other, (1, 1))
    target, foreign = tmp_path / "out.h5", tmp_path / "foreign.h5"
    convert(source, target)
    foreign.write_text("not ours")
    for arguments in ([other, target], [source, target, "--dtype", "float32"], [source, foreign]):
        kept = arguments[1].read_bytes()
        assert convert(*arguments) == 2
        assert "--overwrite" in capsys.readouterr().err
        assert arguments[1].read_bytes() == kept
    assert convert(other, target, "--overwrite") == 0
    assert_holds(target, others)


def test_a_partial_file_of_another_input_wants_overwrite(tmp_path, monkeypatch, capsys, blocks_of_two):
    source, target = write_tsv(tmp_path / "in.tsv", sample_images()), tmp_path / "out.h5"
    with monkeypatch.context() as patch:
        interrupt(patch, after=1)
        assert convert(source, target) == 130
    assert convert(source, target, "--dtype", "float32") == 2
    assert "out.h5.part: begun from another input or with other options" in capsys.readouterr().err
    assert (tmp_path / "out.h5.part").exists()
    assert convert(source, target, "--dtype", "float32", "--overwrite") == 0
    assert_holds(target, sample_images(), "float32")


# --- what the file tells about itself -----------------------------------------------------------------------------


def test_the_file_tells_where_it_comes_from(tmp_path):
    images = sample_images(regions=[2, 4, 1, 3])
    source, target = write_tsv(tmp_path / "in.tsv", images, lxmert), tmp_path / "out.h5"
    convert(source, target)
    with h5py.File(target) as file:
        assert (file.attrs["format"], file.attrs["version"]) == (b"cdvqa region features", 1)
        origin, fingerprint = json.loads(file.attrs["source"]), json.loads(file.attrs["fingerprint"])
    assert (origin["format"], origin["dtype"], origin["bytes"]) == ("lxmert", "float16", source.stat().st_size)
    norms = np.concatenate([np.linalg.norm(image.features.astype(np.float16), axis=1) for image in images])
    assert fingerprint["shape"] == [4, 4, 5] and fingerprint["images"] == 4 and fingerprint["extractor"] is None
    assert fingerprint["source_digest"] == f"crc32 {zlib.crc32(source.read_bytes()):08x}"
    assert fingerprint["norm"]["mean"] == pytest.approx(norms.mean(), rel=1e-3)
    assert fingerprint["norm"]["max"] == pytest.approx(norms.max(), rel=1e-3)


def test_an_interrupted_replacement_goes_on(tmp_path, monkeypatch, capsys, blocks_of_two):
    old, images = sample_images(seed=1), sample_images()
    target = tmp_path / "out.h5"
    convert(write_tsv(tmp_path / "old.tsv", old), target)
    source = write_tsv(tmp_path / "in.tsv", images)
    with monkeypatch.context() as patch:
        interrupt(patch, after=3)
        assert convert(source, target, "--overwrite") == 130
    assert_holds(target, old)
    assert convert(source, target, "--overwrite") == 0
    assert "resumed after 6 images" in capsys.readouterr().out
    assert_holds(target, images)
