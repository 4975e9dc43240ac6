"""Region features and questions: converted, read at random, loaded in batches, prepared from the official files.

Everything runs on one thread but for what is said to have two. Files live in the folder for temporary files (`TMPDIR`),
up to 4 GB at a time, and are deleted.
"""

import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks import data_conversion, data_questions, data_reading, data_step
from benchmarks.record import Record, write

TOPICS = (data_conversion, data_reading, data_step, data_questions)


def main() -> None:
    one_thread()
    records = [record for topic in TOPICS for record in in_temporary_folder(topic.measure)]
    write("data", records, note=" ".join(topic.NOTE for topic in TOPICS))


def one_thread() -> None:
    """Use one thread here and in child processes, tokenisers included."""
    os.environ.update(OMP_NUM_THREADS="1", RAYON_NUM_THREADS="1", HF_HUB_OFFLINE="1")
    torch.set_num_threads(1)


def in_temporary_folder(measure: Callable[[Path], list[Record]]) -> list[Record]:
    with TemporaryDirectory(prefix="cdvqa-benchmark-") as folder:
        return measure(Path(folder))


if __name__ == "__main__":
    main()
