"""The subnetwork file: exact round trip, size, and files that must be refused."""

import copy
import json
import os

import orjson
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from cdvqa.errors import InputError
from cdvqa.sparsity import Subnetwork, attach_fixed_masks, attach_masks, masks, reset_thresholds
from cdvqa.sparsity.masks.mask import pack, unpack
from tests.sparsity.toy import DEAD, GROUPS, NAMES, Toy, train

METADATA = {"objective": "lmh", "sparsity": 0.7, "answers": ["yes", "no", "café"]}


@pytest.fixture
def model():
    model = Toy()
    attach_masks(model, GROUPS, dict.fromkeys(GROUPS, 0.7), dead=DEAD)
    train(model, 3)
    reset_thresholds(model)
    return model


def test_round_trip_is_exact(model, tmp_path):
    before = copy.deepcopy(model.state_dict())
    subnetwork = Subnetwork.from_model(model, METADATA)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    subnetwork.save(tmp_path / "deep" / "subnetwork.safetensors")
    loaded = Subnetwork.load(tmp_path / "deep" / "subnetwork.safetensors")
    assert loaded.metadata == METADATA
    assert list(loaded.state) == list(subnetwork.state)
    assert loaded.state.keys() == Toy().state_dict().keys()
    assert list(loaded.masks) == NAMES
    for name, value in subnetwork.state.items():
        assert loaded.state[name].dtype == value.dtype
        assert torch.equal(loaded.state[name], value)
    for name, mask in masks(model).items():
        assert torch.equal(loaded.masks[name], mask)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["subnetwork.safetensors"]


def test_masks_keep_their_own_order(tmp_path):
    state = {"a": torch.zeros(3), "b": torch.ones(2, dtype=torch.float16), "steps": torch.tensor(7)}
    kept = {"b": torch.ones(2, dtype=torch.bool), "a": torch.zeros(3, dtype=torch.bool)}
    Subnetwork(state, kept, {}).save(tmp_path / "s.safetensors")
    loaded = Subnetwork.load(tmp_path / "s.safetensors")
    assert list(loaded.masks) == ["b", "a"]
    assert list(loaded.state) == ["a", "b", "steps"]
    assert loaded.state["b"].dtype == torch.float16
    assert loaded.state["steps"] == 7


def test_a_loaded_subnetwork_answers_like_the_model(model, tmp_path):
    Subnetwork.from_model(model, {}).save(tmp_path / "s.safetensors")
    loaded, fresh = Subnetwork.load(tmp_path / "s.safetensors"), Toy(seed=3)
    fresh.load_state_dict(loaded.state)
    attach_fixed_masks(fresh, loaded.masks)
    inputs = torch.randint(0, 31, (4, 5)), torch.randn(4, 9)
    assert torch.equal(fresh(*inputs), model(*inputs))


@pytest.mark.parametrize(("sparsity", "fraction"), [(0.5, 0.53125), (0.9, 0.13125)])
def test_a_weight_costs_one_bit_and_its_kept_value(tmp_path, sparsity, fraction):
    model = nn.Linear(1000, 800, bias=False)
    attach_masks(model, {"cross": ["weight"]}, {"cross": sparsity})
    Subnetwork.from_model(model, {}).save(tmp_path / "s.safetensors")
    size = (tmp_path / "s.safetensors").stat().st_size
    assert size / (800_000 * 4) == pytest.approx(fraction, abs=0.001)


def test_masks_are_packed_as_numpy_does(model, tmp_path):
    Subnetwork.from_model(model, METADATA).save(tmp_path / "s.safetensors")
    with safe_open(tmp_path / "s.safetensors", framework="np") as file:
        packed, kept, header = (
            file.get_tensor("mask/words.weight"),
            file.get_tensor("kept/words.weight"),
            file.metadata(),
        )
    assert packed.dtype == "uint8"
    assert len(packed) == 24  # 186 weights
    assert kept.shape == (56,)
    assert orjson.loads(header["metadata"]) == METADATA


@pytest.mark.parametrize("entries", [0, 1, 7, 8, 9, 1000])
def test_packed_masks_unpack(entries):
    mask = torch.rand(entries, generator=torch.Generator().manual_seed(0)) > 0.5
    assert torch.equal(unpack(pack(mask), mask.shape), mask)


def test_a_mask_over_non_zeros_is_not_saved(tmp_path):
    wrong = Subnetwork({"w": torch.ones(4)}, {"w": torch.tensor([True, False, True, True])}, {})
    with pytest.raises(ValueError, match="w is not zero"):
        wrong.save(tmp_path / "s.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_bad_files_are_refused(model, tmp_path):
    path = tmp_path / "s.safetensors"
    with pytest.raises(InputError, match="there is no subnetwork file"):
        Subnetwork.load(path)
    Subnetwork.from_model(model, METADATA).save(path)
    whole = path.read_bytes()
    for length in (0, 5, 300, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match="truncated"):
            Subnetwork.load(path)
    path.write_text('{"not": "weights"}')
    with pytest.raises(InputError, match=r"s\.safetensors is truncated or no safetensors file"):
        Subnetwork.load(path)
    save_file({"w": torch.ones(3)}, path)
    with pytest.raises(InputError, match="no cdvqa subnetwork"):
        Subnetwork.load(path)
    save_file({"w": torch.ones(3)}, path, {"format": "cdvqa-subnetwork", "version": "2"})
    with pytest.raises(InputError, match="format 2, this cdvqa reads up to 1; update"):
        Subnetwork.load(path)


# Bytes and permissions


def test_files_follow_the_umask_and_their_bytes_the_content_alone(model, tmp_path):
    """The library's writer shuffles the header and takes mode 600, so that a group could not read its networks."""
    subnetwork, before = Subnetwork.from_model(model, METADATA), os.umask(0o027)
    try:
        contents = set()
        for number in range(4):
            path = tmp_path / f"{number}.safetensors"
            subnetwork.save(path)
            contents.add(path.read_bytes())
            assert path.stat().st_mode & 0o777 == 0o640
    finally:
        os.umask(before)
    assert len(contents) == 1
    # The library reads the file, and would have laid the tensors out alike.
    tensors = load_file(tmp_path / "0.safetensors")
    assert tensors["kept/words.weight"].shape == (56,) and list(tensors) == sorted(tensors)


def test_files_of_the_library_still_load(model, tmp_path):
    """Version 1 files of earlier versions were written by the library."""
    path = tmp_path / "s.safetensors"
    Subnetwork.from_model(model, METADATA).save(path)
    with safe_open(path, framework="pt") as file:
        save_file({key: file.get_tensor(key) for key in file.keys()}, tmp_path / "old", file.metadata())  # noqa: SIM118
    old, new = Subnetwork.load(tmp_path / "old"), Subnetwork.load(path)
    assert all(torch.equal(value, old.state[name]) for name, value in new.state.items())


# Headers that lie


def parts(model, tmp_path):
    """The tensors and the header of a sound file."""
    path = tmp_path / "sound.safetensors"
    Subnetwork.from_model(model, METADATA).save(path)
    with safe_open(path, framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata())  # noqa: SIM118


WORDS = "words.weight"
LIES = {
    "huge shape": lambda t, h: h.update(shapes=edit(h, WORDS, [2**30, 2**20])),
    "negative shape": lambda t, h: h.update(shapes=edit(h, WORDS, [-31, -6])),
    "fractional shape": lambda t, h: h.update(shapes=edit(h, WORDS, [31.0, 6])),
    "boolean shape": lambda t, h: h.update(shapes=edit(h, WORDS, [True, 186])),
    "shape of nothing": lambda t, h: h.update(shapes=edit(h, WORDS, [0, 2**70])),
    "many dimensions": lambda t, h: h.update(shapes=edit(h, WORDS, [1] * 99 + [186])),
    "shape of another": lambda t, h: h.update(shapes=edit(h, "nowhere", [3])),
    "no shapes": lambda t, h: h.update(shapes="{}"),
    "shapes as a list": lambda t, h: h.update(shapes="[]"),
    "field missing": lambda t, h: h.pop("tensors"),
    "no JSON": lambda t, h: h.update(tensors="["),
    "deep JSON": lambda t, h: h.update(metadata="[" * 100_000),
    "metadata as a list": lambda t, h: h.update(metadata="[1]"),
    "names that are numbers": lambda t, h: h.update(tensors="[1, 2]"),
    "a name too few": lambda t, h: h.update(tensors=orjson.dumps(orjson.loads(h["tensors"])[1:]).decode()),
    "a duplicate name": lambda t, h: h.update(tensors=orjson.dumps(orjson.loads(h["tensors"]) * 2).decode()),
    "version as a word": lambda t, h: h.update(version="one"),
    "version 0": lambda t, h: h.update(version="0"),
    "mask too short": lambda t, h: t.update({f"mask/{WORDS}": t[f"mask/{WORDS}"][:2].clone()}),
    "mask of no bytes": lambda t, h: t.update({f"mask/{WORDS}": torch.zeros(0, dtype=torch.uint8)}),
    "mask of floats": lambda t, h: t.update({f"mask/{WORDS}": torch.zeros(24)}),
    "mask missing": lambda t, h: t.pop(f"mask/{WORDS}"),
    "one bit more": lambda t, h: t[f"mask/{WORDS}"].copy_(torch.full((24,), 255)),
    "a value too many": lambda t, h: t.update({f"kept/{WORDS}": torch.ones(57)}),
    "a value too few": lambda t, h: t.update({f"kept/{WORDS}": torch.ones(55)}),
    "kept integers": lambda t, h: t.update({f"kept/{WORDS}": torch.ones(56, dtype=torch.int64)}),
    "kept in two dimensions": lambda t, h: t.update({f"kept/{WORDS}": torch.ones(56, 1)}),
    "kept NaN": lambda t, h: t.update({f"kept/{WORDS}": torch.full((56,), torch.nan)}),
    "dense infinity": lambda t, h: t["dense/classifier.bias"].fill_(torch.inf),
    "a surplus tensor": lambda t, h: t.update({"dense/surplus": torch.ones(2)}),
    "a type of 8 bits": lambda t, h: t.update({"dense/classifier.bias": torch.ones(4).to(torch.float8_e4m3fn)}),
}


def edit(header, name, shape):
    return json.dumps(json.loads(header["shapes"]) | {name: shape})


@pytest.mark.parametrize("lie", LIES)
def test_a_header_that_lies_is_one_line(model, tmp_path, lie):
    tensors, header = parts(model, tmp_path)
    LIES[lie](tensors, header)
    save_file(tensors, tmp_path / "s.safetensors", header)
    with pytest.raises(InputError) as caught:
        Subnetwork.load(tmp_path / "s.safetensors")
    assert len(str(caught.value).splitlines()) == 1 and "s.safetensors" in str(caught.value)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_file_loads_or_is_refused(model, tmp_path, data):
    path = tmp_path / "damaged.safetensors"
    if not (tmp_path / "sound.safetensors").is_file():
        parts(model, tmp_path)
    content = bytearray((tmp_path / "sound.safetensors").read_bytes())
    end = 8 + int.from_bytes(content[:8], "little")
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, end - 1) | st.integers(0, len(content) - 1))
        content[place] = data.draw(st.sampled_from(b'0123456789-.eE[]{}",:tnf ') | st.integers(0, 255))
    path.write_bytes(content)
    try:
        Subnetwork.load(path)
    except InputError as error:
        assert str(path) in str(error)
