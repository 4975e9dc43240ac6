"""Which process sees which questions, in training and in evaluation.

Lightning's own sampler replacement must be off (`use_distributed_sampler: false`): it would shard these a second time.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler
from torchdata.stateful_dataloader import StatefulDataLoader
from torchdata.stateful_dataloader.sampler import StatefulDistributedSampler

from cdvqa.data.batch import VQABatch
from cdvqa.data.dataset import VQADataset


class TrainingSampler(StatefulDistributedSampler):
    """A new permutation in each epoch, the same on every process, dealt out in turn.

    All processes take the same number of steps: where the questions do not divide evenly, the first of the permutation
    are dealt a second time (at most world_size − 1 of them). With one process every question is seen exactly once.

    What it yields is epoch · N + row, so that a worker knows the epoch of what it fetches. The epoch is in the saved
    state too: on resume Lightning starts the loader's workers before it tells the sampler the epoch. A state from the
    end of an epoch is loaded as the start of the next, for that is what Lightning then takes the batches for.
    """

    dataset: VQADataset

    def __iter__(self) -> Iterator[int]:
        start = self.epoch * len(self.dataset)
        for row in super().__iter__():
            yield start + row

    def set_epoch(self, epoch: int) -> None:
        if epoch != self.epoch:
            self.next_yielded = None
        super().set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"epoch": self.epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        epochs, yielded = divmod(state_dict["yielded"], self.num_samples)
        super().load_state_dict({"yielded": yielded})
        super().set_epoch(state_dict["epoch"] + epochs)


class EvaluationSampler(Sampler[int]):
    """One unbroken range of questions per process: each question exactly once, on any number of processes."""

    def __init__(self, questions: int, rank: int, world_size: int) -> None:
        self.range = range(questions * rank // world_size, questions * (rank + 1) // world_size)

    def __iter__(self) -> Iterator[int]:
        return iter(self.range)

    def __len__(self) -> int:
        return len(self.range)


def training_loader(
    dataset: VQADataset,
    batch_size: int,
    seed: int = 0,
    epoch: int = 0,
    rank: int = 0,
    world_size: int = 1,
    num_workers: int = 0,
) -> DataLoader[VQABatch]:
    """A shuffling loader whose state can be saved and restored in the middle of an epoch, workers or not.

    The last, smaller batch is kept. torchdata is used here and nowhere else.

    Args:
        dataset: the training questions.
        batch_size: questions per step of this process.
        seed: of the permutations; the same on every process.
        epoch: the first epoch; `loader.sampler.set_epoch` moves on to the next.
        rank: this process.
        world_size: number of processes.
        num_workers: loader processes.
    """
    sampler = TrainingSampler(dataset, num_replicas=world_size, rank=rank, shuffle=True, seed=seed)
    sampler.set_epoch(epoch)
    return StatefulDataLoader(dataset, batch_size=batch_size, sampler=sampler, **_shared(num_workers))


def evaluation_loader(
    dataset: VQADataset, batch_size: int, rank: int = 0, world_size: int = 1, num_workers: int = 0
) -> DataLoader[VQABatch]:
    """A loader of this process's part of the questions, in order; processes may differ in their number of batches."""
    sampler = EvaluationSampler(len(dataset), rank, world_size)
    return DataLoader(dataset, batch_size=batch_size, sampler=sampler, **_shared(num_workers))


def _whole(batch: VQABatch) -> VQABatch:
    return batch  # the data set makes whole batches; there is nothing left to collate


def _shared(num_workers: int) -> dict[str, Any]:
    return {"num_workers": num_workers, "collate_fn": _whole, "pin_memory": torch.cuda.is_available()}
