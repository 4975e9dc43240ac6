"""Work in several processes."""

import os
import signal
from contextlib import closing

import pytest

from cdvqa.conversion.blocks import Interrupted
from cdvqa.conversion.workers import results
from cdvqa.errors import InputError


def square(number):
    return number**2, os.getpid()


def refuse_three(number):
    if number == 3:
        raise InputError("file: record 3: is wrong")
    return number


def die_at_three(number):
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def imported(names):
    import sys

    return set(names) & set(sys.modules)


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_every_task_is_done_once(workers):
    with closing(results(square, range(20), workers)) as finished:
        squares, processes = zip(*finished, strict=True)
    assert sorted(squares) == [number**2 for number in range(20)]
    assert (os.getpid() in processes) == (workers == 1)


@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_wrong_comes_home(workers):
    with pytest.raises(InputError, match="record 3: is wrong"), closing(results(refuse_three, range(9), workers)) as it:
        list(it)


def test_a_killed_worker_is_told():
    with (
        pytest.raises(Interrupted, match="a worker ended with exit code -9"),
        closing(results(die_at_three, range(9), 2)) as it,
    ):
        list(it)


def test_workers_stay_small():
    with closing(results(imported, [["torch", "h5py", "pytorch_lightning"]] * 2, 2)) as finished:
        assert list(finished) == [set(), set()]


def test_nothing_to_do():
    assert list(results(square, [], 2)) == []
