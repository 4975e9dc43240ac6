"""The subnetwork file: exact round trip, size, and files that must be refused."""

import copy
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from cdvqa.errors import InputError
from cdvqa.sparsity import NetworkFile, Subnetwork, attach_fixed_masks, attach_masks, masks, reset_thresholds
from cdvqa.sparsity.files.header import checksum
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


# Size and precision

BITS = {"fp32": 32, "fp16": 16, "bf16": 16, "int8": 8}


@pytest.mark.parametrize("precision", BITS)
@pytest.mark.parametrize("sparsity", [0.3, 0.5, 0.7, 0.9])
def test_a_weight_costs_little_more_than_its_entropy(tmp_path, sparsity, precision):
    model = nn.Linear(1000, 800, bias=False)
    attach_masks(model, {"cross": ["weight"]}, {"cross": sparsity})
    Subnetwork.from_model(model, {}).save(tmp_path / "s.safetensors", precision)
    entropy = -sparsity * math.log2(sparsity) - (1 - sparsity) * math.log2(1 - sparsity)
    bits = 8 * (tmp_path / "s.safetensors").stat().st_size / 800_000
    assert bits / ((1 - sparsity) * BITS[precision] + entropy) < (1.03 if precision == "int8" else 1.02)


@pytest.mark.parametrize(("precision", "error"), [("fp32", 0), ("fp16", 2**-11), ("bf16", 2**-8)])
def test_a_narrow_file_has_the_same_zeros_and_rounded_values(model, tmp_path, precision, error):
    network = Subnetwork.from_model(model, METADATA)
    network.save(tmp_path / "s.safetensors", precision)
    loaded = Subnetwork.load(tmp_path / "s.safetensors")
    for name, value in network.state.items():
        there = loaded.state[name]
        if value.is_floating_point():
            assert there.dtype == {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
        assert ((there.double() - value.double()).abs() <= error * value.double().abs()).all()
    for name, mask in network.masks.items():
        assert torch.equal(loaded.masks[name], mask)
        assert not loaded.state[name][~mask].any()


def test_int8_is_within_half_a_step_of_each_row(tmp_path):
    value = torch.randn(40, 70, generator=torch.Generator().manual_seed(0)) * torch.logspace(-6, 3, 40)[:, None]
    mask = torch.rand(40, 70, generator=torch.Generator().manual_seed(1)) > 0.6
    mask[3] = False
    value = value * mask
    Subnetwork({"w": value, "b": torch.tensor([1.5])}, {"w": mask}, {}).save(tmp_path / "s.safetensors", "int8")
    loaded = Subnetwork.load(tmp_path / "s.safetensors")
    step = value.abs().amax(1, keepdim=True) / 127
    assert ((loaded.state["w"] - value).abs() <= 0.505 * step).all()
    assert not loaded.state["w"][~mask].any() and torch.equal(loaded.masks["w"], mask)
    assert loaded.state["w"].dtype == torch.float32 and loaded.state["b"].dtype == torch.float16


def test_a_matrix_that_is_kept_whole_can_be_int8_as_well(tmp_path):
    value = torch.randn(40, 70, generator=torch.Generator().manual_seed(0))
    Subnetwork({"w": value, "v": value}, {}, {}).save(tmp_path / "s.safetensors", "int8", ["w"])
    file = NetworkFile(tmp_path / "s.safetensors")
    assert ((file.read("w") - value).abs() <= 0.505 * value.abs().amax(1, keepdim=True) / 127).all()
    assert file.read("w").dtype == torch.float32 and file.read("v").dtype == torch.float16
    target = torch.zeros(40, 70, dtype=torch.float64)
    file.fill({"w": target})
    assert torch.equal(target.float(), file.read("w"))


def test_a_value_that_fp16_cannot_hold_is_named(tmp_path):
    network = Subnetwork({"deep.bias": torch.tensor([1e6])}, {}, {})
    with pytest.raises(InputError, match=r"deep\.bias has values beyond those of fp16; use bf16"):
        network.save(tmp_path / "s.safetensors", "fp16")
    assert list(tmp_path.iterdir()) == []
    network.save(tmp_path / "s.safetensors", "bf16")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_mask_comes_back(tmp_path, data):
    shape = data.draw(st.sampled_from([(0,), (1,), (8,), (3, 5), (600, 500), (2, 3, 4, 5), (4, 0)]))
    share = data.draw(st.sampled_from([0.0, 0.1, 0.5, 0.56, 0.9, 1.0]))
    precision = data.draw(st.sampled_from([None, *BITS]))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 9)))
    mask = torch.rand(shape, generator=generator) >= share
    value = torch.randn(shape, generator=generator) * mask
    Subnetwork({"w": value}, {"w": mask}, {}).save(tmp_path / "s.safetensors", precision)
    loaded = Subnetwork.load(tmp_path / "s.safetensors")
    assert torch.equal(loaded.masks["w"], mask) and not loaded.state["w"][~mask].any()
    if precision in (None, "fp32"):
        assert torch.equal(loaded.state["w"].view(torch.int32), value.abs().copysign(value).view(torch.int32) * mask)


# Reading into memory that is there


def test_a_file_fills_a_model_and_refuses_another(model, tmp_path):
    network = Subnetwork.from_model(model, {})
    network.save(tmp_path / "s.safetensors")
    fresh, file = Toy(seed=3), NetworkFile(tmp_path / "s.safetensors")
    file.fill(fresh.state_dict())
    assert all(torch.equal(value, network.state[name]) for name, value in fresh.state_dict().items())
    half = {name: value.half() for name, value in network.state.items() if value.is_floating_point()}
    file.fill(half)
    assert all(torch.equal(value, network.state[name].half()) for name, value in half.items())
    with pytest.raises(InputError, match=r"s\.safetensors: holds no nowhere; it seems to be of another model"):
        file.fill({"nowhere": torch.zeros(2)})
    with pytest.raises(InputError, match=r"the shape of words.weight is \[31, 6\] there and \[6, 31\] here"):
        file.fill({"words.weight": torch.zeros(6, 31)})


def test_loading_takes_little_more_memory_than_the_model(tmp_path):
    mask = torch.rand(64, 1000, 400) > 0.5
    state = {f"w{number}": torch.randn(1000, 400) * mask[number] for number in range(64)}
    Subnetwork(state, {f"w{number}": mask[number] for number in range(64)}, {}).save(tmp_path / "s.safetensors")
    program = f"""
import resource, torch
from cdvqa.sparsity import NetworkFile
torch.set_num_threads(1)
warm = NetworkFile({str(tmp_path / "s.safetensors")!r})
warm.read("w0")
targets = {{f"w{{number}}": torch.zeros(1000, 400) for number in range(64)}}
for target in targets.values():
    target.fill_(1)
read = lambda: next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon"))
before = read()
peak = before
for name, target in targets.items():
    warm.read(name, target)
    peak = max(peak, read())
print(peak - before)
"""
    grown = int(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout)
    assert grown < 4000  # KiB: a few pieces of a matrix of 1,600; all matrices take 100,000


def test_masks_are_packed_as_numpy_does(model, tmp_path):
    Subnetwork.from_model(model, METADATA).save(tmp_path / "s.safetensors")
    network = Subnetwork.from_model(model, METADATA)
    with safe_open(tmp_path / "s.safetensors", framework="np") as file:
        packed, kept, header = (
            file.get_tensor("mask/words.weight"),
            file.get_tensor("kept/words.weight"),
            file.metadata(),
        )
    assert packed.tolist() == np.packbits(network.masks["words.weight"].numpy()).tolist()
    assert kept.tolist() == network.state["words.weight"][network.masks["words.weight"]].tolist()
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
    save_file({"w": torch.ones(3)}, path, {"format": "cdvqa-subnetwork", "version": "3"})
    with pytest.raises(InputError, match="format 3, this cdvqa reads up to 2; update"):
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


@pytest.mark.parametrize("precision", [None, *BITS])
def test_the_reader_of_the_format_page_reads_the_same(model, tmp_path, precision):
    network = Subnetwork.from_model(model, METADATA)
    network.save(tmp_path / "s.safetensors", precision, ["classifier.parametrizations.weight.original1"])
    page = (Path(__file__).parents[2] / "docs" / "format.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    exec(page.partition("```python\n")[2].partition("```")[0], names)
    found, loaded = names["read"](tmp_path / "s.safetensors"), Subnetwork.load(tmp_path / "s.safetensors")
    assert list(found) == list(loaded.state)
    for name, value in loaded.state.items():
        assert np.array_equal(found[name], value.float().numpy())


def test_files_of_version_1_still_load():
    """The file beside this one was written by the last cdvqa of version 1."""
    network = Subnetwork.load(Path(__file__).with_name("version1.safetensors"))
    generator = torch.Generator().manual_seed(0)
    words, kept = torch.randn(31, 6, generator=generator), torch.rand(31, 6, generator=generator) > 0.7
    vision, seen = torch.randn(9, 8, generator=generator).half(), torch.rand(9, 8, generator=generator) > 0.4
    assert list(network.state) == ["words.weight", "bias", "vision.weight", "steps"]
    assert torch.equal(network.state["words.weight"], words * kept) and torch.equal(network.masks["words.weight"], kept)
    assert torch.equal(network.state["vision.weight"], vision * seen) and network.state["steps"] == 7
    assert torch.equal(network.masks["vision.weight"], seen)
    assert network.metadata == {"objective": "lmh", "answers": ["yes", "no"]}


def test_files_of_the_library_load(model, tmp_path):
    """safetensors' own writer lays a file out in another order."""
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
    "checksums missing": lambda t, h: h.pop("crc32"),
    "a checksum missing": lambda t, h: h.update(crc32="{}"),
    "checksums as a list": lambda t, h: h.update(crc32="[1]"),
    "a checksum as a word": lambda t, h: h.update(crc32=json.dumps(dict.fromkeys(json.loads(h["crc32"]), "1"))),
    "a bit flipped": lambda t, h: t["dense/classifier.bias"].view(torch.int32).bitwise_xor_(1),
    "deflated and not": lambda t, h: h.update(deflated=json.dumps([WORDS])),
    "deflated nothing": lambda t, h: h.update(deflated='["nowhere"]'),
    "deflated as an object": lambda t, h: h.update(deflated="{}"),
    "a surplus scale": lambda t, h: t.update({f"scale/{WORDS}": torch.ones(31, dtype=torch.bfloat16)}),
    "int8 without scales": lambda t, h: t.update({f"kept/{WORDS}": torch.ones(56, dtype=torch.int8)}),
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
    sums = header["crc32"]
    LIES[lie](tensors, header)
    if header.get("crc32") == sums and lie != "a bit flipped":  # so that it is not the checksums that give it away
        header["crc32"] = json.dumps({key: checksum(tensor) for key, tensor in tensors.items()})
    save_file(tensors, tmp_path / "s.safetensors", header)
    with pytest.raises(InputError) as caught:
        Subnetwork.load(tmp_path / "s.safetensors")
    assert len(str(caught.value).splitlines()) == 1 and "s.safetensors" in str(caught.value)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
