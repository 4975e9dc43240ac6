"""`make claims`: which of the paper's claims hold in the embedded world `scenes`, over four seeds."""

import argparse
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean, stdev

from cdvqa.artefacts import read_json, write_atomically
from cdvqa.runs import Run
from cdvqa.studies.convergence import convergence
from cdvqa.studies.jobs import Job, pipeline_job, run_jobs
from cdvqa.worlds.scenes import make_scenes

LOGS = Path("logs/claims")
WORLD = Path("data/scenes")
OVERLAY = ("--config", "scenes.yaml")
# The runs by the name that the claims below use.
RUNS = {
    "full bce": partial(pipeline_job, stage=1, pipeline=["bce"]),
    "full lmh": partial(pipeline_job, stage=1, pipeline=["lmh"]),
    "OMP of bce 50 %": partial(pipeline_job, stage=2, pipeline=["bce"], method="omp"),
    "bce+lmh 50 %": partial(pipeline_job, stage=2, pipeline=["bce", "lmh"]),
    "bce+lmh 50 % random start": partial(pipeline_job, stage=2, pipeline=["bce", "lmh"], initialisation="random"),
    "bce+lmh 95 %": partial(pipeline_job, stage=2, pipeline=["bce", "lmh"], zeros=0.95),
}


@dataclass(frozen=True)
class Claim:
    """`better` beats `worse` out of distribution by at least `by` points, averaged over seeds."""

    text: str
    better: str
    worse: str
    by: float
    source: str


CLAIMS = (
    Claim("full LMH beats full BCE, both converged", "full lmh", "full bce", 10, "Table 1"),
    Claim("bce+lmh at 50 % beats full BCE", "bce+lmh 50 %", "full bce", 5, "Fig. 2"),
    Claim("a magnitude start beats a random one", "bce+lmh 50 %", "bce+lmh 50 % random start", 0, "Fig. 13"),
    Claim("accuracy collapses at 95 % zeros", "bce+lmh 50 %", "bce+lmh 95 %", 10, "§3.2, App. C.3"),
    Claim("mask training with LMH beats OMP of full BCE", "bce+lmh 50 %", "OMP of bce 50 %", 0, "Fig. 2"),
    Claim("OMP at 50 % is no worse than full BCE", "OMP of bce 50 %", "full bce", 0, "Fig. 2"),
    Claim("bce+lmh at 50 % is no worse than full LMH", "bce+lmh 50 %", "full lmh", 0, "Fig. 2"),
)


def claims(seeds: int, jobs: int) -> str:
    """Run what is missing and return the report in Markdown."""
    make_scenes(WORLD)
    table = {name: [job(LOGS, seed=seed, overlay=OVERLAY) for seed in range(seeds)] for name, job in RUNS.items()}
    # Seed by seed: whoever stops early has whole seeds.
    run_jobs([row[seed] for seed in range(seeds) for row in table.values()], jobs)
    lines = [
        "# The paper's claims on `scenes`",
        "",
        f"{seeds} seeds, mean ± standard deviation; accuracy in percent.",
        "",
    ]
    return "\n".join([*lines, *accuracy_table(table), "", *claim_table(table), "", *converged_lines(table), ""])


def accuracy(run: Run, split: str) -> float:
    """The paper's accuracy of a tested run on `id` or `test` (out of distribution)."""
    return float(read_json(run.results)["splits"][split]["all"])


def accuracy_table(table: dict[str, list[Job]]) -> list[str]:
    """A line per run."""
    lines = ["| run | in distribution | out of distribution |", "| --- | --- | --- |"]
    for name, jobs in table.items():
        cells = [spread([accuracy(job.run, split) for job in jobs]) for split in ("id", "test")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def claim_table(table: dict[str, list[Job]]) -> list[str]:
    """A line per claim: the difference seed by seed, and whether its mean reaches what is claimed."""
    lines = ["| claim (out of distribution) | source | asked | measured | verdict |", "| --- | --- | --- | --- | --- |"]
    for claim in CLAIMS:
        pairs = zip(table[claim.better], table[claim.worse], strict=True)
        gaps = [accuracy(better.run, "test") - accuracy(worse.run, "test") for better, worse in pairs]
        verdict = "holds" if fmean(gaps) >= claim.by else "**does not hold here**"
        asked = f"≥ {claim.by:g}" if claim.by else "> 0"
        lines.append(f"| {claim.text} | {claim.source} | {asked} | {spread(gaps)} | {verdict} |")
    return lines


def converged_lines(table: dict[str, list[Job]]) -> list[str]:
    """Whether the full models had converged."""
    lines = [
        "Converged means: over the last fifth of the epochs the training loss falls by less than 2 %, and development",
        "accuracy moves by less than 0.5 points; curves averaged over seeds.",
        "",
        "| run | loss fell by | accuracy moved by | converged |",
        "| --- | --- | --- | --- |",
    ]
    for name in ("full bce", "full lmh"):
        end = convergence([job.run for job in table[name]])
        verdict = "yes" if end.converged else "**no**"
        lines.append(f"| {name} | {end.loss_fall:.1%} | {end.accuracy_move:.2f} points | {verdict} |")
    return lines


def spread(values: list[float]) -> str:
    """Mean ± standard deviation (n − 1)."""
    return f"{fmean(values):.2f} ± {stdev(values):.2f}" if len(values) > 1 else f"{values[0]:.2f}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    arguments = parser.parse_args()
    report = claims(arguments.seeds, arguments.jobs)
    with write_atomically(LOGS / "claims.md") as temporary:
        temporary.write_text(report, encoding="utf-8")
    print(report)
