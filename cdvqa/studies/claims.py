"""`make claims`: which of the paper's claims hold in the embedded world `scenes`, over four seeds."""

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd

from cdvqa.cli.commands import in_one_line
from cdvqa.studies.command import publish, study_parser
from cdvqa.studies.jobs import Job, overlay_of, pipeline_job, run_seeds
from cdvqa.studies.report.convergence import convergence
from cdvqa.studies.table import gaps, markdown, named_runs, spread, verdict
from cdvqa.worlds.scenes import make_scenes

LOGS = Path("logs/claims")
WORLD = Path("data/scenes")
# The runs by the names that CLAIMS uses.
RUNS = {
    "full bce": partial(pipeline_job, stage=1, pipeline=["bce"]),
    "full lmh": partial(pipeline_job, stage=1, pipeline=["lmh"]),
    "OMP of bce 50 %": partial(pipeline_job, stage=2, pipeline=["bce"], method="omp"),
    "bce+lmh 50 %": partial(pipeline_job, stage=2, pipeline=["bce", "lmh"]),
    "bce+lmh 50 % random start": partial(pipeline_job, stage=2, pipeline=["bce", "lmh"], criterion="random"),
    "bce+lmh 95 %": partial(pipeline_job, stage=2, pipeline=["bce", "lmh"], zeros=0.95),
}


@dataclass(frozen=True)
class Claim:
    """`better` beats `worse` out of distribution by `by` points, averaged over seeds: by at least, or by more."""

    text: str
    better: str
    worse: str
    by: float
    source: str
    more: bool = False


CLAIMS = (
    Claim("full LMH beats full BCE, both converged", "full lmh", "full bce", 10, "Table 1"),
    Claim("bce+lmh at 50 % beats full BCE", "bce+lmh 50 %", "full bce", 5, "Fig. 2"),
    Claim("a magnitude start beats a random one", "bce+lmh 50 %", "bce+lmh 50 % random start", 0, "Fig. 13", more=True),
    Claim("accuracy collapses at 95 % zeros", "bce+lmh 50 %", "bce+lmh 95 %", 10, "§3.2, App. C.3"),
    Claim("mask training with LMH beats OMP of full BCE", "bce+lmh 50 %", "OMP of bce 50 %", 0, "Fig. 2", more=True),
    Claim("OMP at 50 % is no worse than full BCE", "OMP of bce 50 %", "full bce", 0, "Fig. 2"),
    Claim("bce+lmh at 50 % is no worse than full LMH", "bce+lmh 50 %", "full lmh", 0, "Fig. 2"),
)


def claims(seeds: int, at_once: int) -> str:
    """Run what is missing and return the report in Markdown."""
    make_scenes(WORLD)
    overlay = overlay_of("lxmert")
    jobs = {name: [job(LOGS, seed=seed, overlay=overlay) for seed in range(seeds)] for name, job in RUNS.items()}
    run_seeds(jobs, at_once)
    runs = named_runs(jobs)
    lines = [
        "# The paper's claims on `scenes`",
        "",
        f"{seeds} seeds, mean ± standard deviation; accuracy in percent.",
        "",
    ]
    return "\n".join([*lines, markdown(runs, ["name"]), "", *claim_table(runs), "", *converged_lines(jobs), ""])


def claim_table(runs: pd.DataFrame) -> list[str]:
    """A line per claim: the mean difference over seeds, and whether it is as large as claimed."""
    lines = ["| claim (out of distribution) | source | asked | measured | verdict |", "| --- | --- | --- | --- | --- |"]
    for claim in CLAIMS:
        measured = gaps(runs, claim.better, claim.worse)
        asked = f"{'>' if claim.more else '≥'} {claim.by:g}"
        cells = claim.text, claim.source, asked, spread(measured), verdict(measured, claim.by, claim.more)
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def converged_lines(jobs: dict[str, list[Job]]) -> list[str]:
    """Whether the full models had converged."""
    lines = [
        "Converged means: over the last fifth of the epochs the training loss falls by less than 2 %, and development",
        "accuracy moves by less than 0.5 points; curves averaged over seeds.",
        "",
        "| run | loss fell by | accuracy moved by | converged |",
        "| --- | --- | --- | --- |",
    ]
    for name in ("full bce", "full lmh"):
        end = convergence([job.run for job in jobs[name]])
        converged = "yes" if end.converged else "**no**"
        lines.append(f"| {name} | {end.loss_fall:.1%} | {end.accuracy_move:.2f} points | {converged} |")
    return lines


def main() -> None:
    """Run the study and write its page."""
    arguments = study_parser(__doc__).parse_args()
    publish(claims(arguments.seeds, arguments.jobs), LOGS / "claims.md")


if __name__ == "__main__":
    sys.exit(in_one_line("claims", main))
