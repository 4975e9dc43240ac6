"""Loaders on one and two processes: what each sees, and that a saved state continues exactly where it stopped."""

from itertools import islice

import numpy as np
import pytest
import torch

from cdvqa.data.loaders import TrainingLoader, evaluation_loader
from tests.data.toy import make_dataset, write_toy

N = 23


@pytest.fixture
def dataset(tmp_path):
    return make_dataset(write_toy(tmp_path, train=N))


def ids(batches):
    return [batch.question_id.tolist() for batch in batches]


def flat(lists):
    return [x for part in lists for x in part]


@pytest.mark.parametrize("workers", [0, 2])
def test_training_on_one_process_sees_each_question_once_in_a_new_order(dataset, workers):
    loader = TrainingLoader(dataset, 5, seed=3, num_workers=workers)
    epochs = []
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        epochs.append(ids(loader))
        assert [len(batch) for batch in epochs[-1]] == [5, 5, 5, 5, 3]
        assert sorted(flat(epochs[-1])) == list(range(1000, 1000 + N))
    assert epochs[0] != epochs[1]
    assert epochs[0] != ids(TrainingLoader(dataset, 5, seed=4))


def test_the_order_is_that_of_the_seed_and_the_epoch_alone(dataset):
    loader = TrainingLoader(dataset, 5, seed=3, epoch=4)
    torch.manual_seed(1)
    expected = torch.randperm(N, generator=torch.Generator().manual_seed(3 + 4))
    assert flat(ids(loader)) == dataset.question_id[expected.numpy()].tolist()
    after = torch.rand(())
    torch.manual_seed(1)
    assert after == torch.rand(())  # dropout is not disturbed


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world_size", [1, 2])
def test_a_state_from_the_middle_of_an_epoch_is_continued_exactly(dataset, workers, world_size):
    for rank in range(world_size):
        options = {"seed": 3, "rank": rank, "world_size": world_size, "num_workers": workers}
        whole, saved, resumed = (TrainingLoader(dataset, 3, **options) for _ in range(3))
        for loader in (whole, saved, resumed):
            loader.sampler.set_epoch(1)
        expected = ids(whole)
        iterator = iter(saved)
        seen = ids(islice(iterator, 2))
        state = saved.state_dict()
        resumed.load_state_dict(state)
        assert seen + ids(resumed) == expected
        resumed.sampler.set_epoch(2)
        whole.sampler.set_epoch(2)
        assert ids(resumed) == ids(whole) != expected


@pytest.mark.parametrize("stop", range(9))
def test_a_state_from_any_place_leaves_exactly_the_rest(dataset, stop):
    """8 batches an epoch; another number of threads continues from the same state."""
    saved, resumed = (TrainingLoader(dataset, 3, seed=3, num_workers=workers) for workers in (2, 1))
    seen = flat(ids(islice(iter(saved), stop)))
    state = saved.state_dict()
    assert state == saved.state_dict() == {"epoch": 0, "batches": stop}
    resumed.load_state_dict(state)
    assert resumed.state_dict() == ({"epoch": 1, "batches": 0} if stop == 8 else state)
    rest = flat(ids(resumed))
    assert sorted(rest if stop == 8 else seen + rest) == list(range(1000, 1000 + N))
    assert len(resumed) == 8 and len(ids(resumed)) == 8  # only the first iteration is a part


def test_a_state_from_two_processes_continues_on_one(dataset):
    pair = [TrainingLoader(dataset, 3, seed=3, rank=rank, world_size=2) for rank in range(2)]
    seen = flat(flat(ids(islice(iter(loader), 2)) for loader in pair))
    assert pair[0].state_dict() == pair[1].state_dict()
    alone = TrainingLoader(dataset, 6, seed=3)
    alone.load_state_dict(pair[1].state_dict())
    assert sorted(seen + flat(ids(alone))) == list(range(1000, 1000 + N))


def test_an_abandoned_iteration_starts_over(dataset):
    loader = TrainingLoader(dataset, 3, seed=3)
    expected = ids(loader)
    assert ids(islice(iter(loader), 2)) == expected[:2]
    assert ids(loader) == expected
    loader.load_state_dict({"epoch": 0, "batches": 2})
    loader.sampler.set_epoch(1)
    assert len(ids(loader)) == 8  # the state was another epoch's


def test_two_training_processes_take_equal_steps_and_share_the_questions(dataset):
    parts = [ids(TrainingLoader(dataset, 4, seed=3, rank=rank, world_size=2)) for rank in range(2)]
    assert [len(batch) for batch in parts[0]] == [len(batch) for batch in parts[1]] == [4, 4, 4]
    seen = flat(flat(parts))
    assert set(seen) == set(range(1000, 1000 + N)) and len(seen) == N + 1  # one is repeated


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_sees_each_question_exactly_once(dataset, workers, world_size):
    loaders = [evaluation_loader(dataset, 4, rank, world_size, workers) for rank in range(world_size)]
    assert flat(flat(ids(loader) for loader in loaders)) == list(range(1000, 1000 + N))


def test_more_processes_than_questions(dataset):
    loaders = [evaluation_loader(dataset, 4, rank, 30) for rank in range(30)]
    assert sorted(flat(flat(ids(loader) for loader in loaders))) == list(range(1000, 1000 + N))


@pytest.mark.parametrize("workers", [0, 2])
def test_random_labels_change_with_the_epoch_and_repeat_on_resume(tmp_path, workers):
    dataset = make_dataset(write_toy(tmp_path, train=200), random_label_seed=5)
    missing = dataset.targets.best_label < 0
    assert missing.sum() > 10

    def labels(epoch):
        loader = TrainingLoader(dataset, 64, seed=3, num_workers=workers)
        loader.sampler.set_epoch(epoch)
        pairs = [pair for b in loader for pair in zip(b.question_id.tolist(), b.label.tolist(), strict=True)]
        return np.array([label for _, label in sorted(pairs)])

    first, second = labels(0), labels(1)
    np.testing.assert_array_equal(first, labels(0))
    np.testing.assert_array_equal(first[~missing], dataset.targets.best_label[~missing])
    assert (first[~missing] == second[~missing]).all() and (first[missing] != second[missing]).any()
    assert first[missing].min() >= 0 and len(set(first[missing])) > 1
    assert (dataset.targets.best_label[missing] == -1).all()
