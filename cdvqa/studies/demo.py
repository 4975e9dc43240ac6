"""`make demo`: the three stages on the embedded world, a table, a figure, and the line that opens TensorBoard."""

import argparse
import sys
import time
from functools import partial
from pathlib import Path

from cdvqa.cli.commands import in_one_line
from cdvqa.studies.jobs import Job, overlay_of, pipeline_job, run_jobs
from cdvqa.studies.report.command import report
from cdvqa.worlds.scenes import make_scenes

LOGS = Path("logs/demo")
WORLD = Path("data/scenes")
# A plain and a debiased objective.
OBJECTIVES = {"lxmert": ("bce", "lmh"), "visualbert": ("bce", "lmh"), "mplug": ("ce", "lpf")}
BACKBONES = (*OBJECTIVES, "updn")


def demo(backbone: str, epochs: int | None, seed: int = 0, at_once: int = 2) -> None:
    """Make the world, train and test every pipeline of the demonstration, and report.

    Args:
        backbone: one of `BACKBONES`.
        epochs: epochs of every stage; None as the overlays say.
        seed: of every run.
        at_once: runs at a time.
    """
    started = time.monotonic()
    make_scenes(WORLD)
    overlay = [*overlay_of(backbone), *([f"--trainer.max_epochs={epochs}"] if epochs else [])]
    job = partial(pipeline_job, LOGS, seed=seed, overlay=overlay)
    jobs = three_stages(job, *OBJECTIVES[backbone]) if backbone in OBJECTIVES else full_models(job)
    print(f"{len(jobs)} runs, {at_once} at a time; each prints its accuracy when it has been tested", flush=True)
    run_jobs(jobs, at_once)
    report(LOGS)
    print(f"\n{(time.monotonic() - started) / 60:.1f} minutes. To look into the runs: tensorboard --logdir {LOGS}")


def three_stages(job: partial[Job], plain: str, debiased: str) -> list[Job]:
    """Full models, subnetworks by mask training and by magnitude, and one that is fine-tuned further."""
    return [
        job(stage=1, pipeline=[plain]),
        job(stage=1, pipeline=[debiased]),
        job(stage=2, pipeline=[plain, plain]),
        job(stage=2, pipeline=[plain, debiased]),
        job(stage=2, pipeline=[plain], method="omp"),
        job(stage=2, pipeline=[debiased], method="omp"),
        job(stage=3, pipeline=[plain, plain, debiased]),
    ]


def full_models(job: partial[Job]) -> list[Job]:
    """The runs of UpDn, a small baseline that has no matrices to mask."""
    return [job(stage=1, pipeline=[objective]) for objective in ("bce", "lmh", "lpf")]


def main() -> None:
    """Run the demonstration that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("backbone", nargs="?", choices=BACKBONES, default="lxmert")
    parser.add_argument("--epochs", type=int, help="epochs of every stage (default: as the shipped overlays say)")
    arguments = parser.parse_args()
    demo(arguments.backbone, arguments.epochs)


if __name__ == "__main__":
    sys.exit(in_one_line("demo", main))
