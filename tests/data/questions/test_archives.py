"""Official files plain, packed beside their place, or in archives as downloaded."""

import gzip
import hashlib
import os
import zipfile
from pathlib import Path

import pytest

from cdvqa.data.datasets import VQACP, VQAVS
from cdvqa.data.questions.archives import digest, find_file, locate, unpacked
from cdvqa.errors import InputError
from tests.data.toy import write_toy

NAME = "Val/Val-Ques.json"


def pack(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def content(source):
    return b"".join(unpacked(source))


def test_the_nearest_form_wins(tmp_path):
    pack(tmp_path / "b.zip", {"Val-Ques.json": b"by base name"})
    assert content(locate(tmp_path, NAME)) == b"by base name"
    pack(tmp_path / "c.zip", {"VQA-VS/Val/Val-Ques.json": b"by path"})
    assert content(locate(tmp_path, NAME)) == b"by path"
    (tmp_path / "Val").mkdir()
    pack(tmp_path / "Val/Val-Ques.json.zip", {"Val/Val-Ques.json": b"zipped alone"})
    assert content(locate(tmp_path, NAME)) == b"zipped alone"
    (tmp_path / "Val/Val-Ques.json.gz").write_bytes(gzip.compress(b"gzipped"))
    assert content(locate(tmp_path, NAME)) == b"gzipped"
    (tmp_path / NAME).write_bytes(b"plain")
    assert content(locate(tmp_path, NAME)) == b"plain"


def test_what_a_mac_adds_to_archives_is_no_official_file(tmp_path):
    pack(tmp_path / "a.zip", {"__MACOSX/Val/Val-Ques.json": b"", "Val/._Val-Ques.json": b"", "Val/": b""})
    assert find_file(tmp_path, NAME) is None


def test_an_archive_that_has_been_replaced_is_looked_at_again(tmp_path):
    pack(tmp_path / "a.zip", {"other.json": b""})
    assert find_file(tmp_path, NAME) is None
    pack(tmp_path / "a.zip", {"Val-Ques.json": b"new", "more.json": b""})
    assert content(locate(tmp_path, NAME)) == b"new"


@pytest.mark.parametrize("form", ["plain", "gz", "zip"])
def test_packing_makes_no_difference_to_the_digest(tmp_path, form):
    text = b"[1]" * 5000
    match form:
        case "plain":
            (tmp_path / "a.json").write_bytes(text)
        case "gz":
            (tmp_path / "a.json.gz").write_bytes(gzip.compress(text))
        case "zip":
            pack(tmp_path / "z.zip", {"a.json": text})
    assert digest(locate(tmp_path, "a.json")) == {"bytes": 15_000, "sha256": hashlib.sha256(text).hexdigest()}


def damaged_zip(path):
    pack(path / "z.zip", {"a.json": bytes(range(256)) * 100})
    whole = bytearray((path / "z.zip").read_bytes())
    whole[60] ^= 255
    (path / "z.zip").write_bytes(whole)


def unknown_method(path):
    with zipfile.ZipFile(path / "z.zip", "w") as archive:
        archive.writestr("a.json", b"[]")
    whole = (path / "z.zip").read_bytes()
    entry = whole.index(b"PK\x01\x02")  # the method is 10 bytes into the directory entry, and 8 into the file's header
    whole = whole[: entry + 10] + b"\x63\x00" + whole[entry + 12 :]
    (path / "z.zip").write_bytes(whole[:8] + b"\x63\x00" + whole[10:])


WRONG = {
    "damaged zip": (damaged_zip, r"z\.zip/a\.json: the archive is damaged .*; fetch it again"),
    "cut gzip": (
        lambda path: (path / "a.json.gz").write_bytes(gzip.compress(b"[1, 2, 3]" * 100)[:-12]),
        r"a\.json\.gz: the archive is damaged",
    ),
    "no gzip": (lambda path: (path / "a.json.gz").write_bytes(b"[1]"), r"a\.json\.gz: the archive is damaged"),
    "a method of packing that Python lacks": (unknown_method, r"z\.zip/a\.json: cannot be unpacked .*unpack it yours"),
    "no zip": (
        lambda path: (path / "z.zip").write_bytes(b"<html>not found</html>"),
        r"a\.json: no such file, plain, .gz, .zip or in a zip archive .*\(z\.zip cannot be read: fetch it again\)",
    ),
    "a gzip bomb": (
        lambda path: (path / "a.json.gz").write_bytes(gzip.compress(bytes(30 << 20))),
        r"a\.json\.gz: unpacks to over \d+,\d+,\d+ bytes",
    ),
    "a zip bomb": (lambda path: pack(path / "z.zip", {"a.json": bytes(30 << 20)}), r"z\.zip/a\.json: unpacks to over"),
    "nothing": (lambda path: None, r"a\.json: no such file, plain, .*; --data\.root must hold the official files"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_cannot_be_read_is_named_with_archive_and_member(tmp_path, what):
    damage, message = WRONG[what]
    damage(tmp_path)
    with pytest.raises(InputError, match=message):
        digest(locate(tmp_path, "a.json"))


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir])
def test_what_is_no_regular_file_is_refused(tmp_path, make):
    """A named pipe was waited for without end."""
    make(tmp_path / "mine.json")
    with pytest.raises(InputError, match=r"mine\.json: not a regular file"):
        digest(tmp_path / "mine.json")


def test_a_zipped_split_is_the_split(tmp_path):
    plain, packed = write_toy(tmp_path / "plain", id_test=5), tmp_path / "packed"
    packed.mkdir()
    for kind in ("questions", "annotations"):
        files = {path.name: path.read_bytes() for path in plain.glob(f"*_{kind}.json")}
        pack(packed / f"v2_{kind}.zip", files)
    data_set = VQACP()
    assert data_set.present(packed) == data_set.present(plain)
    for split in data_set.present(packed):
        zipped, unpacked = (data_set.read(root, split, "third") for root in (packed, plain))
        assert zipped.text == unpacked.text and zipped.question_id.tolist() == unpacked.question_id.tolist()


def test_the_real_archive(shared):
    assert len(VQAVS().read(shared / "data", "dev", "third")) == 32_723
