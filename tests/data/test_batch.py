"""The batch: its length, and its way to a device."""

import torch
from pytorch_lightning.utilities import move_data_to_device
from pytorch_lightning.utilities.data import extract_batch_size

from cdvqa.data.batch import VQABatch


def batch():
    return VQABatch(
        torch.arange(3), boxes=torch.ones(3, 2, 4), answers=[["yes"], ["no"], ["two"]], label=torch.tensor([1, -1, 0])
    )


def test_lightning_moves_it_and_knows_its_size():
    moved = move_data_to_device(batch(), torch.device("meta"))
    assert isinstance(moved, VQABatch)
    assert moved.question_id.device.type == moved.boxes.device.type == "meta"
    assert moved.answers == [["yes"], ["no"], ["two"]] and moved.input_ids is None
    assert len(moved) == 3 == extract_batch_size(VQABatch(torch.arange(3)))


def test_moving_leaves_the_original_alone():
    original = batch()
    original.to("meta")
    assert original.boxes.device.type == "cpu"


def test_pinning_reaches_every_tensor(monkeypatch):
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor.clone())
    original = batch()
    result = original.pin_memory()
    assert len(pinned) == 3
    assert result.answers == original.answers and torch.equal(result.label, original.label)


def test_widening_makes_float32_of_features_and_of_nothing_else():
    narrow = batch()
    narrow.region_features = torch.rand(3, 2, 4).half()
    wide = narrow.widened()
    assert wide.region_features.dtype == torch.float32 and narrow.region_features.dtype == torch.float16
    assert torch.equal(wide.region_features.half(), narrow.region_features) and wide.boxes is narrow.boxes
    assert wide.widened() is wide and batch().widened().region_features is None
