"""Batches, read ahead by threads into reused memory."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cdvqa.data.batch import VQABatch
from cdvqa.data.dataset import QuestionDataset

Task = tuple[NDArray[np.intp], int, Tensor]  # arguments of `QuestionDataset.batch`


class ShuffledRows:
    """The rows of one process in training: all processes draw the same permutation, and each takes an equal part.

    Where the rows do not divide evenly, the first rows of the permutation are repeated.

    Args:
        rows: how many rows the data set has.
        rank: this process.
        world_size: number of processes.
        seed: of the permutations; the same in every process.
        epoch: whose permutation is drawn.
    """

    def __init__(self, rows: int, rank: int, world_size: int, seed: int, epoch: int) -> None:
        self.rows, self.rank, self.world_size, self.seed = rows, rank, world_size, seed
        self.set_epoch(epoch)

    def __len__(self) -> int:
        return -(-self.rows // self.world_size)

    def __iter__(self) -> Iterator[int]:
        return iter(self.order()[self.rank :: self.world_size].tolist())

    def set_epoch(self, epoch: int) -> None:
        """Change to the permutation of this epoch."""
        self.epoch = epoch
        self._order: NDArray[np.intp] | None = None

    def order(self) -> NDArray[np.intp]:
        """The rows of all processes in this epoch; row i is for process i modulo their number."""
        if self._order is None:
            generator = torch.Generator().manual_seed(self.seed + self.epoch)
            order = torch.randperm(self.rows, generator=generator).numpy()
            self._order = np.resize(order, len(self) * self.world_size)
        return self._order


class BatchLoader:
    """The batches of one process.

    Reading releases Python's global interpreter lock, so threads read at full speed during training. They need no copy
    between processes, and none of them outlives an iteration. The last, smaller batch is kept.

    Args:
        dataset: the questions.
        sampler: the rows to read; iterated again in each epoch.
        batch_size: questions a batch.
        num_workers: threads that read ahead, two batches each; 0 reads a batch when it is requested.
    """

    def __init__(
        self, dataset: QuestionDataset, sampler: ShuffledRows | range, batch_size: int, num_workers: int = 0
    ) -> None:
        self.dataset = dataset
        self._rows = sampler  # not `sampler`: Lightning would read `batch_sampler` of an evaluation loader too
        self.batch_size = batch_size
        self.num_workers = num_workers
        self._gpu = torch.cuda.is_available()

    def __len__(self) -> int:
        return -(-len(self._rows) // self.batch_size)

    def __iter__(self) -> Iterator[VQABatch]:
        return self._batches()

    def _batches(self, first: int = 0, epoch: int = 0) -> Iterator[VQABatch]:
        """The batches from number `first` on."""
        rows = np.fromiter(self._rows, np.intp, len(self._rows))
        starts = range(first * self.batch_size, len(rows), self.batch_size)
        chosen = (rows[start : start + self.batch_size] for start in starts)
        shape, dtype = self.dataset.visual.image_shape, self.dataset.visual.dtype
        keep = 2 * self.num_workers + 2  # in memory at once: read ahead, the next batch, and the one before it
        memory = _pinned(shape, dtype) if self._gpu else Buffers((self.batch_size, *shape), dtype, keep).take
        tasks = ((part, epoch, memory(len(part))) for part in chosen)  # memory is taken when it is a batch's turn
        batches = self._read_ahead(tasks) if self.num_workers else (self.dataset.batch(*task) for task in tasks)
        for batch in batches:
            yield batch.pin_memory() if self._gpu else batch

    def _read_ahead(self, tasks: Iterable[Task]) -> Iterator[VQABatch]:
        ahead: deque[Future[VQABatch]] = deque()
        threads = ThreadPoolExecutor(self.num_workers, "cdvqa-reader")
        try:
            for task in tasks:
                ahead.append(threads.submit(self.dataset.batch, *task))
                if len(ahead) > 2 * self.num_workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:  # also when the iteration is abandoned
            threads.shutdown(cancel_futures=True)


class TrainingLoader(BatchLoader):
    """A loader that shuffles in each epoch and whose state can be saved and restored in the middle of one.

    All processes take the same number of steps. With one process every question is seen exactly once. The state is the
    same in every process, and does not depend on the number of threads.

    Args:
        dataset: the training questions.
        batch_size: questions per step of this process.
        seed: of the permutations; the same in every process.
        epoch: the first epoch; `sampler.set_epoch` moves on to the next.
        rank: this process.
        world_size: number of processes.
        num_workers: threads that read ahead.
    """

    def __init__(
        self,
        dataset: QuestionDataset,
        batch_size: int,
        seed: int = 0,
        epoch: int = 0,
        rank: int = 0,
        world_size: int = 1,
        num_workers: int = 0,
    ) -> None:
        self.sampler = ShuffledRows(len(dataset), rank, world_size, seed, epoch)  # Lightning sets its epoch
        super().__init__(dataset, self.sampler, batch_size, num_workers)
        self._handed_out = (epoch, 0)  # batches of an epoch
        self._resumed = False

    def __iter__(self) -> Iterator[VQABatch]:
        """The batches; none is read before it is requested, since Lightning calls `iter` before it sets the epoch."""
        epoch, first = self.sampler.epoch, 0
        if self._resumed and self._handed_out[0] == epoch:
            first = self._handed_out[1]
        self._resumed = False
        for number, batch in enumerate(self._batches(first, epoch), first + 1):
            self._handed_out = (epoch, number)
            yield batch

    def labels_of_step(self, batch: int, accumulated: int, batches: int) -> Tensor:
        """Labels (N,) of all questions of the optimiser step that a batch of this epoch belongs to, on all processes.

        Args:
            batch: number of the batch in its epoch, from 0.
            accumulated: batches in a full optimiser step.
            batches: batches in the epoch.
        """
        first = batch // accumulated * accumulated
        start, stop = (end * self.batch_size for end in (first, min(first + accumulated, batches)))
        rows = self.sampler.order()[start * self.sampler.world_size : stop * self.sampler.world_size]
        return torch.from_numpy(self.dataset.label(rows, self.sampler.epoch))

    def state_dict(self) -> dict[str, Any]:
        """Epoch, and how many of its batches have been handed out."""
        epoch, batches = self._handed_out
        return {"epoch": epoch, "batches": batches}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Let the next iteration continue from a saved state.

        A state from the end of an epoch is the start of the next epoch, which is what Lightning then iterates over.
        """
        epochs, batches = divmod(state_dict["batches"], len(self))
        self._handed_out = (state_dict["epoch"] + epochs, batches)
        self._resumed = True
        self.sampler.set_epoch(self._handed_out[0])


def evaluation_loader(
    dataset: QuestionDataset, batch_size: int, rank: int = 0, world_size: int = 1, num_workers: int = 0
) -> BatchLoader:
    """One contiguous range of the questions for each process, in order: every question exactly once."""
    first, end = (len(dataset) * process // world_size for process in (rank, rank + 1))
    return BatchLoader(dataset, range(first, end), batch_size, num_workers)


class Buffers:
    """Memory for batches, reused once the last tensor that refers to it is gone.

    Writing to fresh memory takes several times as long, because the system clears it page by page.

    Args:
        shape: of a full batch.
        dtype: of its numbers.
        keep: how many unused buffers are kept.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any], keep: int) -> None:
        self._shape = shape
        self._dtype = dtype
        self._free: deque[NDArray[Any]] = deque(maxlen=keep)

    def take(self, rows: int) -> Tensor:
        """An uninitialised tensor with this many rows, the only one that refers to its memory."""
        try:
            buffer = self._free.pop()
        except IndexError:
            buffer = np.empty(self._shape, self._dtype)
        lent = buffer[:rows]
        weakref.finalize(lent, self._free.append, buffer).atexit = False
        return torch.from_numpy(lent)  # the tensor's storage, and so each view of it, keeps `lent` alive


def _pinned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Callable[[int], Tensor]:
    """Page-locked memory; torch reuses it, and only after its copy to the GPU has ended."""
    torch_dtype = torch.from_numpy(np.empty(0, dtype)).dtype
    return lambda rows: torch.empty((rows, *shape), dtype=torch_dtype, pin_memory=True)
