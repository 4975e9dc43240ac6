"""`cdvqa prepare features` names what is wrong with its input, and leaves nothing of it behind."""

import os
import subprocess
import sys

import numpy as np
import pytest

from cdvqa.data.partial import PartialFeatures
from tests.tools.features_tsv import Image, bottom_up, convert, encode, interrupt, lxmert, sample_images, write_tsv


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


def test_a_wrong_input_does_not_cost_the_file_it_was_to_replace(tmp_path):
    source, target = write_tsv(tmp_path / "in.tsv", sample_images()), tmp_path / "out.h5"
    convert(source, target)
    kept = target.read_bytes()
    source.write_text(source.read_text()[:-20])
    assert convert(source, target, "--overwrite") == 2
    assert target.read_bytes() == kept and not (tmp_path / "out.h5.part").exists()


def test_an_input_that_changes_while_it_is_read(tmp_path, monkeypatch, capsys, blocks_of_two):
    source, append = write_tsv(tmp_path / "in.tsv", sample_images()), PartialFeatures.append

    def growing(self, *args):
        append(self, *args)
        with source.open("a") as file:
            file.write("more")

    monkeypatch.setattr(PartialFeatures, "append", growing)
    assert convert(source, tmp_path / "out.h5") == 2
    assert "in.tsv: the file changed while it was read" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["in.tsv"]
