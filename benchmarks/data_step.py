"""The loader's share of a training step on the CPU, and whether it would keep up with a GPU."""

from functools import partial
from pathlib import Path

from benchmarks.data_reading import consume_ours, make_dataset, write_file
from benchmarks.mask_step import arm
from benchmarks.record import Record, interleave
from cdvqa.data.loaders import TrainingLoader

BATCH, BATCHES = 8, 40
A100 = 2000.0  # questions a second, an upper estimate
NOTE = "Beside a training step: a dense LXMERT-base step at batch 8 on one thread, batches read between the steps."


def measure(folder: Path, images: int = 1000, repeats: int = 3) -> list[Record]:
    path = folder / "fp32.h5"
    write_file(path, images, "float32", chunks=None)
    loader = TrainingLoader(make_dataset(path, BATCH * BATCHES), BATCH)
    with arm("dense") as ask:
        times = interleave({"step": partial(ask, BATCH, 1), "load": lambda: consume_ours(loader)}, repeats)
    step, load = times["step"].median, times["load"].median / BATCHES
    note = "baseline: estimated, not measured"
    return [
        Record("loader, fp32, B = 8, of a training step", load, "s", step, goal="<= 0.02"),
        Record(
            "loader, fp32, B = 8, beside an A100's training", BATCH / load, "images/s", A100, goal=">= 1", note=note
        ),
    ]
