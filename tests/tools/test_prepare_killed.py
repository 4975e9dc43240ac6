"""A conversion killed at any moment leaves something that the same command completes, to the byte."""

import os
import random
import signal
import subprocess
import sys
import time
from itertools import count, pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cdvqa.conversion.sources.source import FeatureSource
from tests.tools.features_tsv import assert_holds, contents, convert, sample_images, write_tsv

SLOW = """
import sys
from cdvqa.cli import main
from cdvqa.conversion.sources.source import FeatureSource
FeatureSource.images_per_block = 1  # image, with a flush to the disk after each
print("begun", flush=True)
status = main(["prepare", "features", "--input", sys.argv[1], "--output", sys.argv[2]])
print("ended", status, flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def blocks_of_one(monkeypatch):
    monkeypatch.setattr(FeatureSource, "images_per_block", 1)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    images = sample_images(regions=[3, 4, 1] * 100, width=64)
    return write_tsv(tmp_path_factory.mktemp("killed") / "in.tsv", images)


def begin(source, target):
    """Start a conversion in a process of its own; it waits when it has ended."""
    command = [sys.executable, "-c", SLOW, str(source), str(target)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "begun\n"
    return process


@pytest.fixture(scope="module")
def uninterrupted(source, tmp_path_factory):
    """(the right data sets, seconds they take)."""
    target = tmp_path_factory.mktemp("whole") / "out.h5"
    with begin(source, target) as process:
        start = time.monotonic()
        lines = [process.stdout.readline(), process.stdout.readline()]
        seconds = time.monotonic() - start
    assert lines[1] == "ended 0\n"
    return contents(target), seconds


def test_kills_at_random_moments(source, tmp_path, uninterrupted):
    wanted, seconds = uninterrupted
    rng = random.Random(1)
    edges = [seconds * k / 8 for k in range(9)]
    for number, (first, last) in enumerate(pairwise(edges)):  # one in each part of the duration
        target = tmp_path / f"{number}.h5"
        with begin(source, target) as process:
            time.sleep(rng.uniform(first, last))
            process.send_signal(signal.SIGKILL)
        assert convert(source, target) == 0
        assert contents(target) == wanted
        assert sorted(os.listdir(tmp_path)) == [f"{n}.h5" for n in range(number + 1)]


def test_one_conversion_killed_again_and_again(source, tmp_path, uninterrupted):
    wanted, seconds = uninterrupted
    for _ in range(3):
        with begin(source, tmp_path / "out.h5") as process:
            time.sleep(seconds / 5)
            process.send_signal(signal.SIGKILL)
    assert convert(source, tmp_path / "out.h5") == 0
    assert contents(tmp_path / "out.h5") == wanted


def test_a_kill_after_the_end(source, tmp_path, uninterrupted, capsys):
    wanted, _ = uninterrupted
    target = tmp_path / "out.h5"
    with begin(source, target) as process:
        while not process.stdout.readline().startswith("ended"):
            pass
        process.send_signal(signal.SIGKILL)
    before = target.stat()
    assert convert(source, target) == 0
    assert "verified" in capsys.readouterr().out
    assert contents(target) == wanted and target.stat().st_ino == before.st_ino


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(call=st.integers(0, 30), kept=st.floats(0, 1))
def test_a_write_that_ends_at_any_byte(tmp_path, monkeypatch, call, kept):
    images = sample_images(regions=[2, 4, 1, 3, 3])
    source, target = write_tsv(tmp_path / "in.tsv", images), tmp_path / "out.h5"
    calls, write = count(), os.pwrite

    def torn(descriptor, content, offset):
        if next(calls) < call:
            return write(descriptor, content, offset)
        write(descriptor, bytes(content)[: int(kept * len(content))], offset)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", torn)
        convert(source, target, "--overwrite")
    assert convert(source, target) == 0
    assert_holds(target, images)
    assert convert(source, target) == 0
    target.unlink()
