"""Which process sees which questions, in training and in evaluation."""

from collections.abc import Iterator

from cdvqa.data.dataset import QuestionDataset
from cdvqa.data.loaders import BatchLoader, ShuffledRows, TrainingLoader


class EvaluationSampler:
    """One unbroken range of questions per process: each question exactly once, on any number of processes."""

    def __init__(self, questions: int, rank: int, world_size: int) -> None:
        self.range = range(questions * rank // world_size, questions * (rank + 1) // world_size)

    def __iter__(self) -> Iterator[int]:
        return iter(self.range)

    def __len__(self) -> int:
        return len(self.range)


def training_loader(
    dataset: QuestionDataset,
    batch_size: int,
    seed: int = 0,
    epoch: int = 0,
    rank: int = 0,
    world_size: int = 1,
    num_workers: int = 0,
) -> TrainingLoader:
    """A loader that shuffles in each epoch and whose state can be saved and restored in the middle of one.

    Every process deals the same permutation, and all take the same number of steps: where the questions do not divide
    evenly, the first of the permutation are dealt a second time (at most world_size − 1 of them). With one process
    every question is seen exactly once.

    Args:
        dataset: the training questions.
        batch_size: questions per step of this process.
        seed: of the permutations; the same on every process.
        epoch: the first epoch; `loader.sampler.set_epoch` moves on to the next.
        rank: this process.
        world_size: number of processes.
        num_workers: threads that read ahead.
    """
    sampler = ShuffledRows(len(dataset), rank, world_size, seed, epoch)
    return TrainingLoader(dataset, sampler, batch_size, num_workers)


def evaluation_loader(
    dataset: QuestionDataset, batch_size: int, rank: int = 0, world_size: int = 1, num_workers: int = 0
) -> BatchLoader:
    """A loader of this process's part of the questions, in order; processes may differ in their number of batches."""
    return BatchLoader(dataset, EvaluationSampler(len(dataset), rank, world_size), batch_size, num_workers)
