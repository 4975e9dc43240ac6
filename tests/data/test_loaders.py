"""Threads that read ahead: right batches, none overwritten while it is in use, no thread left over."""

import gc
import random
import threading
from itertools import islice

import numpy as np
import pytest
import torch

from cdvqa.data import loaders
from cdvqa.data.dataset import QuestionDataset
from cdvqa.data.loaders import BatchLoader, Buffers, TrainingLoader
from cdvqa.data.visual.features import write_features
from cdvqa.errors import InputError
from tests.data.toy import IMAGES, REGIONS, WIDTH, make_dataset, write_toy, write_toy_features

WORKERS = pytest.mark.parametrize("workers", [0, 1, 2, 5])


@pytest.fixture
def dataset(tmp_path):
    return make_dataset(write_toy(tmp_path, train=200))


def readers():
    return [thread for thread in threading.enumerate() if thread.name.startswith("cdvqa-reader")]


@WORKERS
def test_batches_are_those_of_the_data_set(dataset, workers):
    batches = list(BatchLoader(dataset, range(7, 200), 16, workers))
    assert [len(batch) for batch in batches] == [16] * 12 + [1]
    for number, batch in enumerate(batches):
        rows = np.arange(7 + 16 * number, min(7 + 16 * (number + 1), 200))
        wanted = dataset.batch(rows)
        assert batch.answers is None and batch.image is None
        for name in ("question_id", "input_ids", "attention_mask", "region_features", "boxes", "soft_target", "prior"):
            assert torch.equal(getattr(batch, name), getattr(wanted, name)), name


@WORKERS
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_batch_in_use_is_never_overwritten(tmp_path, workers, dtype):
    """Each image is filled with its own number, so that a wrong byte shows; whatever is held must not change."""
    root = write_toy(tmp_path, train=300)
    number = np.arange(IMAGES)[::-1, None, None]
    write_toy_features(root / "features.h5", features=np.broadcast_to(number, (IMAGES, REGIONS, 500)).astype(dtype))
    dataset = make_dataset(root)
    image = dict(zip(dataset.question_id.tolist(), dataset.image_id.tolist(), strict=True))
    chance = random.Random(workers)
    ways = [  # in which a batch may stay in use
        lambda features: features,
        lambda features: features[1:],
        lambda features: features.view(-1)[500 * REGIONS :].view(-1, REGIONS, 500),
        lambda features: features.numpy()[1:],
        lambda features: torch.utils.dlpack.from_dlpack(features)[1:],
        lambda features: features.detach().transpose(1, 2)[1:],
    ]
    held, memory = [], set()
    loader = TrainingLoader(dataset, 16, num_workers=workers)
    for epoch in range(12):
        loader.sampler.set_epoch(epoch)
        for batch in islice(iter(loader), chance.choice([5, 19])):
            memory.add(batch.region_features.data_ptr())
            wanted = np.array([image[question] for question in batch.question_id.tolist()])
            way = chance.randrange(len(ways))
            look = ways[way](batch.region_features)
            held.append((look, wanted if way == 0 else wanted[1:]))
            del batch, look
            chance.shuffle(held)
            del held[chance.choice([3, 9, 30]) :]
            for look, wanted in held:
                assert (np.asarray(look).reshape(len(wanted), -1) == wanted[:, None]).all()
    gc.collect()
    assert len(memory) < 12 * 19 / 2  # it was used again


def test_memory_is_used_again_once_the_last_view_is_gone():
    buffers = Buffers((4, 3, 2), np.dtype(np.float16), keep=2)
    first = buffers.take(4)
    assert first.shape == (4, 3, 2) and first.dtype == torch.float16
    place, view = first.data_ptr(), first[2:]
    del first
    second = buffers.take(3)
    assert second.data_ptr() != place
    del view
    third = buffers.take(2)
    assert third.data_ptr() == place and third.shape == (2, 3, 2)
    del buffers, second
    third.fill_(1)  # the pool is gone, its memory in use is not
    assert (third == 1).all()


def test_few_unused_buffers_are_kept():
    buffers = Buffers((1,), np.dtype(np.float32), keep=2)
    taken = [buffers.take(1) for _ in range(9)]
    assert len({tensor.data_ptr() for tensor in taken}) == 9
    del taken
    assert len(buffers._free) == 2


@pytest.mark.parametrize("workers", [1, 3])
def test_reading_ahead_is_bounded(dataset, monkeypatch, workers):
    gc.collect()  # threads of earlier tests
    read = []
    batch = type(dataset).batch
    monkeypatch.setattr(type(dataset), "batch", lambda self, rows, *rest: read.append(1) or batch(self, rows, *rest))
    loader = BatchLoader(dataset, range(200), 5, workers)
    for handed_out, _ in enumerate(loader, 1):
        assert handed_out <= len(read) <= handed_out + 2 * workers
        assert 0 < len(readers()) <= workers
    assert handed_out == len(read) == len(loader) == 40 and not readers()


def test_an_abandoned_iteration_leaves_no_thread(dataset):
    gc.collect()  # threads of earlier tests
    iterator = iter(BatchLoader(dataset, range(200), 5, 2))
    next(iterator)
    assert readers()
    del iterator
    gc.collect()
    assert not readers()


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_of_a_thread_is_raised_where_its_batch_would_come(tmp_path, workers):
    root = write_toy(tmp_path, train=60)
    arrays = write_toy_features(root / "features.h5")
    arrays["features"][0, 0, 0] = np.nan  # of the last image, IMAGES - 1
    write_features(root / "features.h5", **arrays)
    dataset = make_dataset(root)
    bad = int(np.flatnonzero(dataset.image_id == IMAGES - 1)[0])
    gc.collect()  # threads of earlier tests
    iterator = iter(BatchLoader(dataset, range(60), 1, workers))
    assert sum(1 for _ in islice(iterator, bad)) == bad
    with pytest.raises(InputError, match=f"image {IMAGES - 1} has NaN"):
        next(iterator)
    assert not readers() and next(iterator, None) is None


@pytest.mark.parametrize("workers", [0, 2])
def test_with_a_gpu_batches_lie_in_pinned_memory(dataset, monkeypatch, workers):
    asked = []

    def empty(shape, dtype, pin_memory):
        asked.append((shape, dtype, pin_memory))
        return torch.zeros(shape, dtype=dtype)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(loaders.torch, "empty", empty)
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor)
    batches = list(BatchLoader(dataset, range(7), 5, workers))
    assert asked == [((n, REGIONS, WIDTH), torch.float32, True) for n in (5, 2)]
    assert torch.equal(batches[1].region_features, dataset.batch(np.array([5, 6])).region_features)
    assert {id(tensor) for tensor in pinned} >= {id(batches[0].region_features), id(batches[0].soft_target)}


def test_questions_without_answers_give_batches_of_their_input_alone(tmp_path):
    root = write_toy(tmp_path)
    num_boxes = np.arange(IMAGES) % REGIONS + 1
    write_toy_features(root / "features.h5", num_boxes=num_boxes)
    whole = make_dataset(root)
    plain = QuestionDataset(whole.question_id, whole.image_id, whole.tokens, whole.visual)
    rows = np.array([4, 1, 4])
    batch, wanted = plain.batch(rows), whole.batch(rows)
    for name in ("question_id", "input_ids", "attention_mask", "region_features", "boxes", "region_mask"):
        assert torch.equal(getattr(batch, name), getattr(wanted, name)), name
    assert batch.region_mask.sum(1).tolist() == num_boxes[IMAGES - 1 - whole.image_id[rows]].tolist()
    assert batch.soft_target is batch.label is batch.prior is batch.question_type is batch.answers is None
    with pytest.raises(InputError, match=r"image 99 \(question 5\) is not in the feature file"):
        QuestionDataset(np.array([5]), np.array([99]), whole.tokens, whole.visual)
