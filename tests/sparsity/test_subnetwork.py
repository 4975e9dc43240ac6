"""The subnetwork file: exact round trip, size, and files that must be refused."""

import copy

import orjson
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from cdvqa.errors import InputError
from cdvqa.sparsity import Subnetwork, attach_fixed_masks, attach_masks, masks, reset_thresholds
from cdvqa.sparsity.masks.bits import pack, unpack
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
