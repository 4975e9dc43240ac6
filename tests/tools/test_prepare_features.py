"""`cdvqa prepare features` makes from published TSV files exactly what the arrays in them say."""

import os
import signal
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cdvqa.cli import main
from cdvqa.data import RegionFeatures, conversion
from cdvqa.data.partial import PartialFeatures
from tests.tools.features_tsv import Image, bottom_up, encode, lxmert, sample_images, write_tsv


def convert(source, target, *options):
    return main(["prepare", "features", "--input", str(source), "--output", str(target), *options])


def expected(images, dtype="float16"):
    """The data sets, computed directly from the arrays."""
    regions = max(len(image.boxes) for image in images)
    features = np.zeros((len(images), regions, images[0].features.shape[1]), dtype)
    boxes = np.zeros((len(images), regions, 4), np.float32)
    for i, image in enumerate(images):
        features[i, : len(image.boxes)] = image.features
        boxes[i, : len(image.boxes), 0::2] = image.boxes[:, 0::2] / np.float32(image.width)
        boxes[i, : len(image.boxes), 1::2] = image.boxes[:, 1::2] / np.float32(image.height)
    ids = np.array([int(image.id.rsplit("_")[-1]) for image in images])
    sizes = np.array([(image.width, image.height) for image in images])
    return {"features": features, "boxes": boxes, "image_id": ids, "size": sizes}


def assert_holds(path, images, dtype="float16"):
    with h5py.File(path) as file:
        wanted = expected(images, dtype)
        if len({len(image.boxes) for image in images}) > 1:
            wanted["num_boxes"] = np.array([len(image.boxes) for image in images])
        assert set(file) == set(wanted)
        for name, values in wanted.items():
            np.testing.assert_array_equal(file[name][:], values, err_msg=name)
            assert file[name].chunks is None and file[name].compression is None
        assert file["features"].dtype == dtype and file["boxes"].dtype == np.float32


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
    reader = RegionFeatures(tmp_path / "out.h5")
    assert reader._features.offset is not None
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


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(regions=st.lists(st.integers(1, 4), min_size=1, max_size=6), width=st.integers(1, 7), block=st.integers(1, 4))
def test_any_shape_in_any_block_size(tmp_path, monkeypatch, regions, width, block):
    monkeypatch.setattr(conversion, "BLOCK", block)
    images = sample_images(regions=regions, width=width)
    assert convert(write_tsv(tmp_path / "in.tsv", images, lxmert), tmp_path / "out.h5", "--overwrite") == 0
    assert_holds(tmp_path / "out.h5", images)
    assert convert(tmp_path / "in.tsv", tmp_path / "out.h5") == 0


# --- interruption and repetition ----------------------------------------------------------------------------------


@pytest.fixture
def blocks_of_two(monkeypatch):
    monkeypatch.setattr(conversion, "BLOCK", 2)


def interrupt(monkeypatch, after):
    """Let `append` fail once it has been called `after` times."""
    append, calls = PartialFeatures.append, []

    def failing(self, *args):
        calls.append(args)
        if len(calls) > after:
            raise KeyboardInterrupt
        append(self, *args)

    monkeypatch.setattr(PartialFeatures, "append", failing)
    return calls


def test_an_interrupted_conversion_goes_on(tmp_path, monkeypatch, capsys, blocks_of_two):
    images = sample_images(regions=[2, 4, 1, 3, 3, 2, 1])
    source, target, part = write_tsv(tmp_path / "in.tsv", images), tmp_path / "out.h5", tmp_path / "out.h5.part"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt(patch, after=2)
        convert(source, target)
    assert part.exists() and not target.exists()
    with monkeypatch.context() as patch:
        rest = interrupt(patch, after=9)
        assert convert(source, target) == 0
    assert [len(features) for features, _, _ in rest] == [2, 1]  # four of seven images were done
    assert "going on after 4 images" in capsys.readouterr().out
    assert_holds(target, images)
    assert not part.exists()
    assert convert(source, target) == 0


def test_rows_that_were_written_without_their_mark_are_written_again(tmp_path, monkeypatch, blocks_of_two):
    images = sample_images()
    source, target = write_tsv(tmp_path / "in.tsv", images), tmp_path / "out.h5"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt(patch, after=2)
        convert(source, target)
    with h5py.File(tmp_path / "out.h5.part", "r+") as file:
        file["features"][4:] = np.nan
    assert convert(source, target) == 0
    assert_holds(target, images)


def test_a_part_that_was_killed_while_being_laid_out_is_begun_anew(tmp_path):
    images = sample_images()
    source = write_tsv(tmp_path / "in.tsv", images)
    (tmp_path / "out.h5.part").write_bytes(b"\x89HDF no more")
    assert convert(source, tmp_path / "out.h5") == 0
    assert_holds(tmp_path / "out.h5", images)


def test_a_killed_process_goes_on(tmp_path):
    images = sample_images(count=400, regions=4, width=64)
    source, target, part = write_tsv(tmp_path / "in.tsv", images), tmp_path / "out.h5", tmp_path / "out.h5.part"
    slow = (  # one image a block and a pause after each, so that the kill falls into the middle
        "import sys, time; from cdvqa.data import conversion, partial; from cdvqa.cli import main\n"
        "conversion.BLOCK = 1; append = partial.PartialFeatures.append\n"
        "def slowly(*args): append(*args); time.sleep(.01); print(args[0].rows, flush=True)\n"
        "partial.PartialFeatures.append = slowly\n"
        "main(['prepare', 'features', '--input', sys.argv[1], '--output', sys.argv[2]])"
    )
    with subprocess.Popen([sys.executable, "-c", slow, source, target], stdout=subprocess.PIPE) as process:
        for _ in range(20):
            process.stdout.readline()
        time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    assert part.exists() and not target.exists()
    with h5py.File(part) as file:
        assert 20 <= file.attrs["progress"][0] < 400
    assert convert(source, target) == 0
    assert_holds(target, images)


def test_a_finished_file_is_verified_and_left_alone(tmp_path, capsys):
    source, target = write_tsv(tmp_path / "in.tsv", sample_images()), tmp_path / "out.h5"
    convert(source, target)
    before = target.stat()
    assert convert(source, target, "--format", "bottom-up") == 0  # what auto had found
    assert "verified" in capsys.readouterr().out.splitlines()[-1]
    assert target.stat().st_mtime_ns == before.st_mtime_ns and target.stat().st_ino == before.st_ino


@pytest.mark.parametrize("name", ["features", "boxes", "image_id", "size"])
def test_a_finished_file_that_has_changed_is_found(tmp_path, capsys, name):
    source, target = write_tsv(tmp_path / "in.tsv", sample_images()), tmp_path / "out.h5"
    convert(source, target)
    with h5py.File(target, "r+") as file:
        file[name][3] = 5
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
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt(patch, after=1)
        convert(source, target)
    assert convert(source, target, "--dtype", "float32") == 2
    assert "out.h5.part: begun from another input or with other options" in capsys.readouterr().err
    assert (tmp_path / "out.h5.part").exists()
    assert convert(source, target, "--dtype", "float32", "--overwrite") == 0
    assert_holds(target, sample_images(), "float32")


# --- wrong input --------------------------------------------------------------------------------------------------


def without(fields: str, index: int) -> str:
    return "\t".join(part for i, part in enumerate(fields.split("\t")) if i != index)


def replaced(fields: str, index: int, value: str) -> str:
    return "\t".join(value if i == index else part for i, part in enumerate(fields.split("\t")))


def with_value(image: Image, field: str, value: float) -> str:
    array = getattr(image, field).copy()
    array[1, 2] = value
    return bottom_up(image._replace(**{field: array}))


SPOILT = {  # how the third line is spoilt: (its text from image, what is said)
    "a field too few": (lambda i: without(bottom_up(i), 4), "5 tab-separated fields, not 6"),
    "a field too many": (lambda i: bottom_up(i) + "\tmore", "7 tab-separated fields, not 6"),
    "a line of the other format": (lxmert, "10 tab-separated fields, not 6"),
    "features not base64": (lambda i: replaced(bottom_up(i), 5, "!" * 80), "'features' is not base64"),
    "boxes not base64": (lambda i: replaced(bottom_up(i), 4, "*" * 64), "'boxes' is not base64"),
    "base64 cut": (lambda i: bottom_up(i)[:-3], "'features' is not base64"),
    "more boxes than there are": (
        lambda i: replaced(bottom_up(i), 3, "4"),
        "num_boxes is 4, but 'boxes' holds 48 bytes",
    ),
    "features of another width": (
        lambda i: replaced(bottom_up(i), 5, encode(i.features[:, :4])),
        "num_boxes is 3, but 'features' holds 48 bytes",
    ),
    "num_boxes zero": (lambda i: replaced(bottom_up(i), 3, "0"), "num_boxes must be a positive whole number"),
    "width no number": (lambda i: replaced(bottom_up(i), 1, "wide"), "width must be a positive whole number"),
    "NaN": (lambda i: with_value(i, "features", np.nan), "features has NaN, infinite"),
    "infinite": (lambda i: with_value(i, "features", -np.inf), "features has NaN, infinite"),
    "NaN in a box": (lambda i: with_value(i, "boxes", np.nan), "boxes has NaN, infinite"),
    "too large for fp16": (lambda i: with_value(i, "features", 1e5), "use --dtype float32"),
    "an image twice": (lambda i: replaced(bottom_up(i), 0, "1000"), "this image stands in line 1 too"),
}


@pytest.mark.parametrize("spoil, said", SPOILT.values(), ids=SPOILT.keys())
def test_a_wrong_line_is_named_and_nothing_is_left(tmp_path, capsys, blocks_of_two, spoil, said):
    lines = [bottom_up(image) for image in sample_images()]
    third = sample_images()[2]
    lines[2] = spoil(third)
    (tmp_path / "in.tsv").write_text("".join(f"{line}\n" for line in lines))
    assert convert(tmp_path / "in.tsv", tmp_path / "out.h5", "--format", "bottom-up") == 2
    error = capsys.readouterr().err
    assert f"in.tsv: line 3 (image {lines[2].split(chr(9))[0]}): " in error and said in error
    assert error.count("\n") == 1
    assert os.listdir(tmp_path) == ["in.tsv"]


def test_a_file_cut_anywhere_in_a_line_is_refused(tmp_path, capsys):
    first, second = (bottom_up(image) for image in sample_images(count=2))
    for length in range(1, len(second)):
        (tmp_path / "in.tsv").write_text(f"{first}\n{second[:length]}")
        assert convert(tmp_path / "in.tsv", tmp_path / "out.h5") == 2
        error = capsys.readouterr().err
        assert "in.tsv: line 2" in error and "the file ends within this line" in error
        assert os.listdir(tmp_path) == ["in.tsv"]


def test_an_id_that_is_no_number(tmp_path, capsys):
    images = sample_images()
    images[1] = images[1]._replace(id="a.jpg")
    assert convert(write_tsv(tmp_path / "in.tsv", images), tmp_path / "out.h5") == 2
    assert "line 2: image_id must be a whole number, not b'a.jpg'" in capsys.readouterr().err


def test_a_missing_empty_or_foreign_input(tmp_path, capsys):
    assert convert(tmp_path / "absent.tsv", tmp_path / "out.h5") == 2
    assert "absent.tsv: no such file" in capsys.readouterr().err
    (tmp_path / "empty.tsv").touch()
    assert convert(tmp_path / "empty.tsv", tmp_path / "out.h5") == 2
    assert "empty.tsv: the file is empty" in capsys.readouterr().err
    (tmp_path / "json.tsv").write_text("[1, 2]\n")
    assert convert(tmp_path / "json.tsv", tmp_path / "out.h5") == 2
    assert "line 1: 1 tab-separated fields, not 6 (bottom-up) or 10 (lxmert)" in capsys.readouterr().err
    assert not list(tmp_path.glob("out*"))


def test_an_input_found_wrong_on_resuming_leaves_nothing(tmp_path, monkeypatch, capsys, blocks_of_two):
    lines = [bottom_up(image) for image in sample_images()]
    lines[5] = with_value(sample_images()[5], "features", np.nan)
    source, target = tmp_path / "in.tsv", tmp_path / "out.h5"
    source.write_text("".join(f"{line}\n" for line in lines))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt(patch, after=1)
        convert(source, target)
    assert convert(source, target) == 2
    assert "line 6 (image 965)" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["in.tsv"]


def test_two_processes_do_not_write_one_file(tmp_path, monkeypatch, capsys, blocks_of_two):
    source, target = write_tsv(tmp_path / "in.tsv", sample_images()), tmp_path / "out.h5"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt(patch, after=1)
        convert(source, target)
    other = "import h5py, sys; file = h5py.File(sys.argv[1], 'r+'); print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", other, tmp_path / "out.h5.part"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        assert convert(source, target) == 2
        assert "another process is writing" in capsys.readouterr().err
        process.stdin.close()
    assert convert(source, target) == 0


def test_too_little_room_is_told_before_the_work(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 100})())
    assert convert(write_tsv(tmp_path / "in.tsv", sample_images()), tmp_path / "out.h5") == 2
    assert "546 bytes are needed and 100 are free" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["in.tsv"]
