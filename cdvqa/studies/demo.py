"""`make demo`: the three stages on the embedded world, a table, a figure, and the line that opens TensorBoard."""

import argparse
import time
from pathlib import Path

from cdvqa.studies.jobs import pipeline_job, run_jobs
from cdvqa.tools.report import report
from cdvqa.worlds.scenes import make_scenes

LOGS = Path("logs/demo")
WORLD = Path("data/scenes")


def demo(epochs: int | None, seed: int = 0, at_once: int = 2) -> None:
    """Make the world, run and test every pipeline of the demonstration, and report.

    Args:
        epochs: epochs of every stage; None as the overlay says.
        seed: of every run.
        at_once: runs at a time.
    """
    started = time.monotonic()
    make_scenes(WORLD)
    overlay = ["--config", "scenes.yaml", *([f"--trainer.max_epochs={epochs}"] if epochs else [])]
    jobs = [
        pipeline_job(LOGS, 1, ["bce"], seed, overlay),
        pipeline_job(LOGS, 1, ["lmh"], seed, overlay),
        pipeline_job(LOGS, 2, ["bce", "bce"], seed, overlay),
        pipeline_job(LOGS, 2, ["bce", "lmh"], seed, overlay),
        pipeline_job(LOGS, 2, ["bce"], seed, overlay, method="omp"),
        pipeline_job(LOGS, 2, ["lmh"], seed, overlay, method="omp"),
        pipeline_job(LOGS, 3, ["bce", "bce", "lmh"], seed, overlay),
    ]
    print(f"{len(jobs)} runs, {at_once} at a time; each prints its accuracy when it has been tested", flush=True)
    run_jobs(jobs, at_once)
    report(LOGS)
    print(f"\n{(time.monotonic() - started) / 60:.1f} minutes. To look into the runs: tensorboard --logdir {LOGS}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, help="epochs of every stage (default: as configs/data/scenes.yaml says)")
    demo(parser.parse_args().epochs)
