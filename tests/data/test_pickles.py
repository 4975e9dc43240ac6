"""Pickles are read as they were written, and none of them runs code."""

import os
import pickle
import subprocess
import sys
from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from cdvqa.data import pickles
from cdvqa.data.pickles import load_pickle, unpickle
from cdvqa.errors import InputError
from tests.conversion.python2 import dumps_python2

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner) | st.sets(st.integers())
    ),
    max_leaves=20,
)
kinds = st.sampled_from(["?", "i1", "<i8", ">i4", "<u2", "<f2", "<f4", ">f8", "<c8", "S3", "<U2"])
tables = arrays.arrays(kinds, arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))


def same(left, right):
    """Equal with types and NaN; `assert_array_equal` alone takes 1 for 1.0."""
    assert np.asarray(left).dtype == np.asarray(right).dtype
    np.testing.assert_array_equal(left, right)


@given(value=plain, protocol=st.integers(0, 5))
def test_plain_values(value, protocol):
    assert unpickle(pickle.dumps(value, protocol), "here") == value


@given(value=tables, protocol=st.integers(0, 5), order=st.sampled_from(["C", "F", "view"]))
def test_arrays(value, protocol, order):
    value = value.T if order == "view" else np.asarray(value, order=order)
    content = pickle.dumps({"a": value, "again": value}, protocol)
    restored, trusted = unpickle(content, "here"), pickle.loads(content)
    same(restored["a"], trusted["a"])
    same(restored["again"], trusted["a"])
    np.testing.assert_array_equal(trusted["a"], value)


@given(value=tables.filter(lambda value: value.size and value.ravel()[0].nbytes), protocol=st.integers(0, 5))
def test_scalars(value, protocol):
    scalar = value.ravel()[0]
    restored = unpickle(pickle.dumps(scalar, protocol), "here")
    assert type(restored) is type(scalar)
    same(restored, scalar)


@given(value=tables)
def test_arrays_of_python_2(value):
    same(unpickle(dumps_python2({"a": value}), "here")["a"], value.astype(value.dtype.newbyteorder("=")))


@pytest.mark.parametrize("protocol", range(6))
def test_objects_in_arrays(protocol):
    info = {"bbox": np.arange(4.0), "name": "x"}
    restored = unpickle(pickle.dumps(np.array(info, dtype=object), protocol), "here").item()
    assert restored["name"] == "x"
    same(restored["bbox"], info["bbox"])
    many = np.array([{"a": 1}, None, "text"], dtype=object)
    assert unpickle(pickle.dumps(many, protocol), "here").tolist() == many.tolist()


def test_ordered_dicts_and_sets_come_as_plain_values():
    value = [OrderedDict(b=1, a=2), frozenset([3])]
    assert unpickle(pickle.dumps(value), "here") == [{"b": 1, "a": 2}, {3}]
    assert list(unpickle(pickle.dumps(value), "here")[0]) == ["b", "a"]


def test_text_of_python_2_is_latin_1():
    assert unpickle(dumps_python2({"café": [1]}), "here") == {"café": [1]}


# --- refused --------------------------------------------------------------------------------------------------------


class Call:
    """Pickles as a call of any function, with a state if one is given."""

    def __init__(self, function, *arguments, state=None):
        self.reduced = (function, arguments, state) if state is not None else (function, arguments)

    def __reduce__(self):
        return self.reduced


def refused(content, message=""):
    with pytest.raises(InputError, match=f"here: not a pickle of plain values and arrays.*{message}") as error:
        unpickle(content, "here")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "function", [os.system, os.mkdir, eval, exec, getattr, __import__, np.load, np.fromfile, pickle.loads, bytearray]
)
def test_no_other_function(protocol, function):
    refused(pickle.dumps(Call(function, "."), protocol), rf"it asks for \w+\.{function.__name__}\)")


def test_no_code_is_run(tmp_path):
    (tmp_path / "f.pkl").write_bytes(pickle.dumps([Call(os.mkdir, str(tmp_path / "made"))]))
    with pytest.raises(InputError, match=r"f\.pkl: not a pickle .*\(it asks for posix\.mkdir\)"):
        load_pickle(tmp_path / "f.pkl")
    assert not (tmp_path / "made").exists()


def test_no_attribute_of_what_is_allowed():
    refused(b"\x80\x04\x8c\x05numpy\x8c\x10dtype.__reduce__\x93.", "it asks for numpy.dtype.__reduce__")
    refused(b"\x80\x02ccollections\nOrderedDict\n}(X\x01\x00\x00\x00aK\x01ub.", "it alters a function")
    refused(b"\x80\x02cnumpy\ndtype\nN}X\x05\x00\x00\x00_callK\x01s\x86b.", "it alters a function")
    refused(b"\x80\x02cnumpy\nndarray\nK\x05\x85R.")  # no array of a shape of its own
    refused(b"\x80\x02cbuiltins\nbytes\nJ\xff\xff\xff\x7f\x85R.")  # no bytes by the thousand million


def test_forged_types_and_arrays():
    _, _, (version, shape, kind, _, _) = np.zeros(2).__reduce__()
    rebuild, empty = np.zeros(2).__reduce__()[:2]
    fields = Call(np.dtype, "V8", state=(3, "|", None, ("f",), {"f": (np.dtype(object), 0)}, 8, 1, 0))
    refused(pickle.dumps(fields), "arrays of type 'V8'")
    renamed = Call(np.dtype, "f8", state=(3, "<", None, ("f",), {"f": (np.dtype(object), 0)}, 8, 1, 0))
    refused(pickle.dumps(renamed), "structured type")
    for content in (b"\1" * 8, b"\1" * 24, ["x", "y"]):
        refused(pickle.dumps(Call(rebuild, *empty, state=(version, shape, kind, False, content))))
    for content in (b"\1" * 16, ["x"]):
        refused(pickle.dumps(Call(rebuild, *empty, state=(version, shape, np.dtype(object), False, content))))
    refused(pickle.dumps(Call(rebuild, *empty, state=(version, (-1, -2), kind, False, b"\1" * 16))), "proper shape")
    refused(pickle.dumps(Call(rebuild, *empty, state=(version, (1 << 62, 4), kind, False, b""))), "instead of")
    scalar = np.float64(1).__reduce__()[0]
    refused(pickle.dumps(Call(scalar, np.dtype(object), b"\1" * 8)))
    refused(pickle.dumps(Call(scalar, np.dtype("f8"), b"\1" * 16)))


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_pickle_cut_off_anywhere(protocol):
    whole = pickle.dumps({"a": np.arange(4), "b": [1, "text", (2.5, None)]}, protocol)
    for length in range(len(whole)):
        refused(whole[:length])


@given(st.binary(max_size=40))
def test_no_pickle_at_all(content):
    try:
        unpickle(content, "here")
    except InputError as error:
        assert str(error).startswith("here: not a pickle")


def shared(make, count, first=b"]"):
    """Values of two references to the one before: 2 ** count of them when they are walked through."""
    return first + b"q\0" + b"".join(b"h%c" % i + b"h%c" % i + make + b"q%c" % (i + 1) for i in range(count))


def empty_lists(count):
    """Lists that are put into each other twice after all of them have been made, while they were empty."""
    made = b"".join(b"]q%c" % i for i in range(count))
    return made + b"".join(b"h%c(h%ch%ce" % (i, i + 1, i + 1) for i in range(count - 1))


def arrays_of_arrays(count):
    rebuild = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\0tC\1btR"
    state = b"(K\1(K\1tcnumpy\ndtype\n(X\2\0\0\0O8tR\x89]"
    return (rebuild + state) * count + b"N" + b"atb" * count


DEEP = 200_000
ATTACKS = {  # name: a pickle that crashes pickle.Unpickler or what uses its values, or takes all time or memory
    "nested tuples as a key": b"}" + b")" + b"\x85" * DEEP + b"Ns",
    "nested tuples in a set": b"(" + b")" + b"\x85" * DEEP + b"\x91",
    "nested tuples": b")" + b"\x85" * DEEP,
    "nested lists": b"]" * DEEP + b"a" * (DEEP - 1),
    "nested dicts": b"}" + b"N}" * DEEP + b"s" * DEEP,
    "nested arrays of objects": arrays_of_arrays(20_000),
    "a tuple graph as a key": b"}" + shared(b"\x86", 80, b")") + b"Ns",
    "a tuple graph": shared(b"\x86", 80, b")"),
    "a list graph": empty_lists(80),
    "one text in a hundred thousand copies": b"\x80\2c_codecs\nencode\nq\1]q\0(X\0\0\1\0" + b"a" * 65536 + b"q\2"
    + b"X\6\0\0\0latin1q\3" + b"h\1h\2h\3\x86R" * 100_000 + b"e",
    "bytes of any length": b"\x8e" + (1 << 40).to_bytes(8, "little") + b"a",
    "a value of any number": b"Nr" + (1 << 28).to_bytes(4, "little"),  # took 4.1 GB
    "a number of any length": b"\x8b" + (1 << 28).to_bytes(4, "little") + b"a" * (1 << 20),
}  # fmt: skip
RUN = """
import pickle, resource, sys
from cdvqa.data.pickles import unpickle
from cdvqa.errors import InputError
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
attacks = pickle.load(sys.stdin.buffer)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for name, content in attacks.items():
    try:
        unpickle(content + b".", "here")
    except InputError as error:
        assert len(str(error)) < 300
        print(name)
assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 200_000, "kB"
"""


def test_pickles_that_attack_time_memory_or_the_interpreter():
    """In a process of their own, with limits: tuples in tuples as a key ended the interpreter, graphs never ended."""
    done = subprocess.run([sys.executable, "-c", RUN], input=pickle.dumps(ATTACKS), capture_output=True, timeout=90)
    assert (done.returncode, done.stderr.decode()) == (0, "")
    assert done.stdout.decode().splitlines() == list(ATTACKS)


def test_a_pipe_and_a_file_beyond_the_limit_are_refused(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.pkl")
    with pytest.raises(InputError, match=r"pipe\.pkl: cannot be read \(not a file"):
        load_pickle(tmp_path / "pipe.pkl")
    (tmp_path / "large.pkl").write_bytes(pickle.dumps(1))
    monkeypatch.setattr(pickles, "_LARGEST", 4)
    with pytest.raises(InputError, match=r"large\.pkl: cannot be read \(not a file of at most 4 bytes"):
        load_pickle(tmp_path / "large.pkl")


def test_a_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"none\.pkl: no such file"):
        load_pickle(tmp_path / "none.pkl")
    with pytest.raises(InputError, match="cannot be read"):
        load_pickle(tmp_path)
