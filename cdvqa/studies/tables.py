"""What Markdown reports say of runs by name, each over several seeds."""

from collections.abc import Sequence
from statistics import fmean, stdev

from cdvqa.files import read_json
from cdvqa.runs.folder import Run
from cdvqa.studies.jobs import Job

Table = dict[str, list[Job]]  # the runs of a name, one a seed


def accuracy(run: Run, split: str) -> float:
    """The paper's accuracy of a tested run on `id` or `test` (out of distribution)."""
    return float(read_json(run.results)["splits"][split]["all"])


def accuracies(jobs: Sequence[Job], split: str) -> list[float]:
    """`accuracy` of each."""
    return [accuracy(job.run, split) for job in jobs]


def accuracy_table(table: Table) -> list[str]:
    """A line per run."""
    lines = ["| run | in distribution | out of distribution |", "| --- | --- | --- |"]
    for name, jobs in table.items():
        lines.append(f"| {name} | {' | '.join(spread(accuracies(jobs, split)) for split in ('id', 'test'))} |")
    return lines


def gaps(table: Table, better: str, worse: str) -> list[float]:
    """By how much one run beats another out of distribution, seed by seed, in points."""
    return [a - b for a, b in zip(accuracies(table[better], "test"), accuracies(table[worse], "test"), strict=True)]


def verdict(gaps: Sequence[float], least: float) -> str:
    """Whether the mean reaches what is asked."""
    return "holds" if fmean(gaps) >= least else "**does not hold here**"


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation (n − 1)."""
    return f"{fmean(values):.2f} ± {stdev(values):.2f}" if len(values) > 1 else f"{values[0]:.2f}"
