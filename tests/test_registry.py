"""Classes by short name or by their path."""

from abc import ABC, abstractmethod
from collections import OrderedDict

import pytest

from cdvqa.errors import InputError
from cdvqa.registry import find_class


class Incomplete(ABC, dict):
    @abstractmethod
    def splits(self): ...


def test_a_class_is_found_by_its_short_name_or_its_path():
    assert find_class("data.layout", "usual", {"usual": OrderedDict}, dict) is OrderedDict
    assert find_class("data.layout", "collections.OrderedDict", {}, dict) is OrderedDict


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gqa", r"^data.layout 'gqa' is unknown; use one of usual, or package.module.Class$"),
        ("no.such.Set", r"no.such.Set: cannot be imported \(No module named 'no'\); put its folder on PYTHONPATH"),
        ("collections.Nothing", "cannot be imported .*Nothing"),
        ("collections.deque", "collections.deque: not a subclass of builtins.dict"),
        ("collections.namedtuple", "not a subclass"),
        (f"{__name__}.Incomplete", "does not define splits"),
    ],
)
def test_what_is_no_extension_is_one_line(name, message):
    with pytest.raises(InputError, match=message):
        find_class("data.layout", name, {"usual": OrderedDict}, dict)
