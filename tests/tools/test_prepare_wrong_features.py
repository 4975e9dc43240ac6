"""`cdvqa prepare features` names what is wrong with its input, and leaves nothing of it behind."""

import errno
import os
import shutil
import subprocess
import sys
from itertools import count

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cdvqa.cli import main
from cdvqa.conversion.feature_file import FeatureFile
from cdvqa.conversion.sources.tsv import BottomUpTsv
from cdvqa.data.visual import fingerprint
from tests.tools.features_tsv import (
    Image,
    assert_holds,
    bottom_up,
    contents,
    convert,
    encode,
    interrupt,
    lxmert,
    sample_images,
    write_tsv,
)


@pytest.fixture(autouse=True)
def small_sample(monkeypatch):
    """The fingerprint looks at the first image only, so that the others are met in their blocks first."""
    monkeypatch.setattr(fingerprint, "SAMPLE", 1)


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
    "features not base64": (lambda i: replaced(bottom_up(i), 5, "!" * 80), "'features' cannot be read ("),
    "boxes not base64": (lambda i: replaced(bottom_up(i), 4, "*" * 64), "'boxes' cannot be read ("),
    "base64 cut": (lambda i: bottom_up(i)[:-3], "'features' cannot be read ("),
    "more boxes than there are": (
        lambda i: replaced(bottom_up(i), 3, "4"),
        "num_boxes is 4, but 'features' holds 60 bytes",
    ),
    "features of another width": (
        lambda i: replaced(bottom_up(i), 5, encode(i.features[:, :4])),
        "num_boxes is 3, but 'features' holds 48 bytes",
    ),
    "num_boxes zero": (lambda i: replaced(bottom_up(i), 3, "0"), "num_boxes must be a positive whole number"),
    "width no number": (lambda i: replaced(bottom_up(i), 1, "wide"), "image_w must be a positive whole number"),
    "NaN": (lambda i: with_value(i, "features", np.nan), "features has NaN, infinite"),
    "infinite": (lambda i: with_value(i, "features", -np.inf), "features has NaN, infinite"),
    "NaN in a box": (lambda i: with_value(i, "boxes", np.nan), "boxes has NaN, infinite"),
    "too large for fp16": (lambda i: with_value(i, "features", 1e5), "use --dtype float32"),
    "an image twice": (lambda i: replaced(bottom_up(i), 0, "1000"), "image 1000 is in "),
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
    assert "line 2 (image a.jpg): 'a.jpg' holds no image id" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, said",
    [
        ([], "either --input"),
        (["--input", "a.tsv", "--images", "folder"], "either --input"),
        (["--input", "a.tsv", "--checkpoint", "a/b"], "--checkpoint goes with --images"),
        (["--images", "folder", "--format", "lxmert"], "--format goes with --input"),
        (["--input", "a.tsv", "--workers", "0"], "--workers 0: must be at least 1"),
        (["--input", "a.tsv", "--workers", "2"], "--workers goes with --images"),
    ],
)
def test_flags_that_do_not_go_together(tmp_path, capsys, arguments, said):
    assert main(["prepare", "features", "--output", str(tmp_path / "out.h5"), *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_a_missing_empty_or_foreign_input(tmp_path, capsys):
    assert convert(tmp_path / "absent.tsv", tmp_path / "out.h5") == 2
    assert "absent.tsv: no such file" in capsys.readouterr().err
    (tmp_path / "empty.tsv").touch()
    assert convert(tmp_path / "empty.tsv", tmp_path / "out.h5", "--format", "lxmert") == 2
    assert "empty.tsv: holds no image" in capsys.readouterr().err
    (tmp_path / "json.tsv").write_text("[1, 2]\n")
    assert convert(tmp_path / "json.tsv", tmp_path / "out.h5") == 2
    assert "json.tsv: looks like none of bottom-up, lxmert, arrays" in capsys.readouterr().err
    assert convert(tmp_path / "json.tsv", tmp_path / "out.h5", "--format", "lxmert") == 2
    assert "json.tsv: line 1 (image [1, 2]): 1 tab-separated fields, not 10 as in lxmert" in capsys.readouterr().err
    assert not list(tmp_path.glob("out*"))


def test_an_input_found_wrong_on_resuming_leaves_nothing(tmp_path, monkeypatch, capsys, blocks_of_two):
    lines = [bottom_up(image) for image in sample_images()]
    lines[5] = with_value(sample_images()[5], "features", np.nan)
    source, target = tmp_path / "in.tsv", tmp_path / "out.h5"
    source.write_text("".join(f"{line}\n" for line in lines))
    with monkeypatch.context() as patch:
        interrupt(patch, after=1)
        assert convert(source, target) == 130
    assert convert(source, target) == 2
    assert "line 6 (image 965)" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["in.tsv"]


def test_two_processes_do_not_write_one_file(tmp_path, monkeypatch, capsys, blocks_of_two):
    source, target = write_tsv(tmp_path / "in.tsv", sample_images()), tmp_path / "out.h5"
    with monkeypatch.context() as patch:
        interrupt(patch, after=1)
        assert convert(source, target) == 130
    other = (
        "import fcntl, sys; file = open(sys.argv[1]); fcntl.flock(file, fcntl.LOCK_EX); print(flush=True)\n"
        "sys.stdin.read()"
    )
    command = [sys.executable, "-c", other, tmp_path / "out.h5.part"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        assert convert(source, target) == 2
        assert "another process is writing" in capsys.readouterr().err
        process.stdin.close()
    assert convert(source, target) == 0


def test_too_little_room_is_told_before_the_work(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 100})())
    assert convert(write_tsv(tmp_path / "in.tsv", sample_images()), tmp_path / "out.h5") == 1
    assert "882 bytes are needed and 100 are free (No space left on device)" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["in.tsv"]


def test_a_wrong_input_does_not_cost_the_file_it_was_to_replace(tmp_path):
    source, target = write_tsv(tmp_path / "in.tsv", sample_images()), tmp_path / "out.h5"
    convert(source, target)
    kept = target.read_bytes()
    source.write_text(source.read_text()[:-20])
    assert convert(source, target, "--overwrite") == 2
    assert target.read_bytes() == kept and not (tmp_path / "out.h5.part").exists()


def test_an_input_that_changes_while_it_is_read(tmp_path, monkeypatch, capsys, blocks_of_two):
    source, write = write_tsv(tmp_path / "in.tsv", sample_images()), FeatureFile.write

    def growing(self, *args):
        write(self, *args)
        with source.open("a") as file:
            file.write("more")

    monkeypatch.setattr(FeatureFile, "write", growing)
    assert convert(source, tmp_path / "out.h5") == 2
    assert "in.tsv: the file changed while it was read" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["in.tsv"]


def test_an_input_that_shrinks_while_it_is_read(tmp_path, monkeypatch, capsys, blocks_of_two):
    source, write = write_tsv(tmp_path / "in.tsv", sample_images()), FeatureFile.write

    def shrinking(self, *args):
        write(self, *args)
        os.truncate(source, 400)

    monkeypatch.setattr(FeatureFile, "write", shrinking)
    assert convert(source, tmp_path / "out.h5") == 2
    assert "in.tsv: the file changed while it was read" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["in.tsv"]


# --- the output ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [0, 100, 2500, -1])
def test_a_finished_file_that_is_cut_short_is_named(tmp_path, capsys, kept):
    source, target = write_tsv(tmp_path / "in.tsv", sample_images()), tmp_path / "out.h5"
    convert(source, target)
    os.truncate(target, kept if kept >= 0 else target.stat().st_size - 1)
    assert convert(source, target) == 2
    error = capsys.readouterr().err
    assert f"{target}: " in error and "--overwrite" in error and error.count("\n") == 1
    assert convert(source, target, "--overwrite") == 0 and convert(source, target) == 0


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255))
def test_a_wrong_byte_anywhere_in_a_finished_file(tmp_path, capsys, place, value):
    """It is refused in one line, or it stands where nothing is kept."""
    source, target = write_tsv(tmp_path / "in.tsv", sample_images(count=2)), tmp_path / "out.h5"
    convert(source, target, "--overwrite")
    right = contents(target)
    content = bytearray(target.read_bytes())
    content[int(place * len(content))] = value
    target.write_bytes(content)
    capsys.readouterr()
    status, error = convert(source, target), capsys.readouterr().err
    assert (status, error.count("\n")) == (2, 1) or (status == 0 and contents(target) == right)


def test_a_half_written_file_under_the_final_name_is_named(tmp_path, monkeypatch, capsys, blocks_of_two):
    source, target = write_tsv(tmp_path / "in.tsv", sample_images()), tmp_path / "out.h5"
    with monkeypatch.context() as patch:
        interrupt(patch, after=2)
        assert convert(source, target) == 130
    (tmp_path / "out.h5.part").rename(target)
    assert convert(source, target) == 2
    assert f"{target}: its content has changed since it was made, first in images 4 to 5" in capsys.readouterr().err


@pytest.mark.parametrize("output", ["file/out.h5", "folder", "/proc/self/out.h5"])
def test_an_output_that_cannot_be_written(tmp_path, capsys, output):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    source = write_tsv(tmp_path / "in.tsv", sample_images())
    assert convert(source, tmp_path / output) == 2
    error = capsys.readouterr().err
    assert str(tmp_path / output) in error and "--output" in error and error.count("\n") == 1


def failing(function, after, code):
    """The function, failing from its call number `after` + 1 on as the system does."""
    calls = count()

    def fail(*args):
        if next(calls) >= after:
            raise OSError(code, os.strerror(code))
        return function(*args)

    return fail


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_is_full_at_once_is_told_with_numbers(tmp_path, monkeypatch, capsys, code):
    source, target = write_tsv(tmp_path / "in.tsv", sample_images()), tmp_path / "out.h5"
    monkeypatch.setattr(os, "posix_fallocate", failing(None, 0, code))
    assert convert(source, target) == 1
    error = capsys.readouterr().err
    assert "882 bytes are needed and" in error and os.strerror(code) in error and error.count("\n") == 1
    assert os.listdir(tmp_path) == ["in.tsv"]


@pytest.mark.parametrize("call", ["pwrite", "fdatasync"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails_later_keeps_what_is_done(tmp_path, monkeypatch, capsys, blocks_of_two, call, code):
    old, images = sample_images(seed=1), sample_images()
    target = tmp_path / "out.h5"
    convert(write_tsv(tmp_path / "old.tsv", old), target)
    source = write_tsv(tmp_path / "in.tsv", images)
    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing(getattr(os, call), 9 if call == "pwrite" else 2, code))
        assert convert(source, target, "--overwrite") == 1
    error = capsys.readouterr().err
    assert f"out.h5.part: cannot be written ({os.strerror(code)})" in error and error.count("\n") == 1
    assert_holds(target, old)
    assert convert(source, target, "--overwrite") == 0
    assert "resumed after 4 images" in capsys.readouterr().out
    assert_holds(target, images)


@pytest.mark.parametrize("method", ["index", "images"])
def test_an_input_on_a_disk_that_fails(tmp_path, monkeypatch, capsys, blocks_of_two, method):
    source, target = write_tsv(tmp_path / "in.tsv", sample_images()), tmp_path / "out.h5"
    with monkeypatch.context() as patch:
        after = 0 if method == "index" else 3  # the first call is the fingerprint's
        patch.setattr(BottomUpTsv, method, failing(getattr(BottomUpTsv, method), after, errno.EIO))
        assert convert(source, target) == 1
    error = capsys.readouterr().err
    assert "in.tsv: cannot be read (Input/output error)" in error and error.count("\n") == 1
    assert convert(source, target) == 0
    assert ("resumed after 4 images" in capsys.readouterr().out) == (method == "images")
    assert_holds(target, sample_images())


def test_a_small_disk(tmp_path):
    """A real file system of one MB, where one may be mounted."""
    source = write_tsv(tmp_path / "in.tsv", sample_images(count=40, regions=36, width=512))
    (tmp_path / "disk").mkdir()
    script = f"mount -t tmpfs -o size=1m none {tmp_path}/disk || exit 77; echo good > {tmp_path}/disk/out.h5; "
    script += (
        f"{sys.executable} -m cdvqa prepare features --input {source} --output {tmp_path}/disk/out.h5 --overwrite;"
    )
    script += f"echo $?; ls {tmp_path}/disk; cat {tmp_path}/disk/out.h5; exit 0"
    if not shutil.which("unshare"):
        pytest.skip("no unshare here")
    done = subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True)
    if done.returncode != 0:  # of unshare or mount; a lost output is no reason to skip
        pytest.skip("no file system may be mounted here")
    assert done.stdout.split() == ["1", "out.h5", "good"]
    assert "bytes are needed and" in done.stderr and done.stderr.count("\n") == 1
