"""Regions that are computed in several processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from cdvqa.conversion.convert import convert_features
from cdvqa.conversion.sources.source import FeatureIndex, FeatureSource, ImageRegions
from cdvqa.errors import InputError, Stopped
from tests.ending import has_ended

START = """
import sys
from tests.conversion.test_convert import Drawn, convert_features
convert_features(Drawn(sys.argv[1], slow=1), sys.argv[1] + "/out.h5", workers=2)
"""


class Drawn(FeatureSource):
    """Nine images of one region, its feature the image's number; leaves the id of the process that computed it."""

    format = "grid"
    images_per_block = 2

    def __init__(self, path, slow=0.0, refuse=-1, die=-1):
        self.path, self.bytes, self.slow, self.refuse, self.die = Path(path), 9, slow, refuse, die

    @classmethod
    def recognises(cls, path):
        return False

    @property
    def identity(self):
        return {}

    def index(self, progress):
        numbers = np.arange(9)
        return FeatureIndex(numbers, np.ones((9, 2), int), np.ones(9, int), 1, numbers)

    def images(self, index):
        for number in index.image_id.tolist():
            if len(index) <= self.images_per_block:  # not the sample of the fingerprint
                (self.path / f"{os.getpid()}.pid").touch()
                time.sleep(self.slow)
                if number == self.refuse:
                    raise InputError("image 5 is wrong")
                if number == self.die:
                    os.kill(os.getpid(), signal.SIGKILL)
            yield ImageRegions(str(number), np.full((1, 1), number, np.float32), np.zeros((1, 4), np.float32))


def features(path):
    with h5py.File(path) as file:
        return file["features"][:].ravel().tolist()


def test_every_image_is_computed_once_in_other_processes(tmp_path):
    done = convert_features(Drawn(tmp_path), tmp_path / "out.h5", workers=3)
    assert features(tmp_path / "out.h5") == list(range(9)) and done.found == 0
    processes = {int(path.stem) for path in tmp_path.glob("*.pid")}
    assert 1 <= len(processes) <= 3 and os.getpid() not in processes


def test_what_a_worker_finds_wrong_is_reported_and_nothing_is_left(tmp_path):
    with pytest.raises(InputError, match="image 5 is wrong"):
        convert_features(Drawn(tmp_path, refuse=5), tmp_path / "out.h5", workers=2)
    assert not list(tmp_path.glob("out*"))


def test_a_killed_worker_is_reported_and_the_next_call_resumes(tmp_path):
    with pytest.raises(Stopped, match="a worker was killed; run the same command again"):
        convert_features(Drawn(tmp_path, die=8), tmp_path / "out.h5", workers=2)
    assert (tmp_path / "out.h5.part").exists()
    convert_features(Drawn(tmp_path), tmp_path / "out.h5", workers=2)
    assert features(tmp_path / "out.h5") == list(range(9))


def test_workers_end_with_the_process_that_started_them(tmp_path):
    """Guards against orphans: a killed main process can end nobody, and its workers would wait forever."""
    with subprocess.Popen([sys.executable, "-c", START, str(tmp_path)]) as process:
        while len(pids := list(tmp_path.glob("*.pid"))) < 2:
            assert process.poll() is None
            time.sleep(0.02)
        process.kill()
    end = time.monotonic() + 10
    while not all(has_ended(path.stem) for path in pids):
        assert time.monotonic() < end
        time.sleep(0.02)
