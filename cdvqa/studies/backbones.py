"""`make backbones`: does each backbone learn `scenes`, and do debiased objectives help it where the priors shift?"""

import sys
from collections import Counter
from functools import partial
from pathlib import Path
from statistics import fmean

import pandas as pd

from cdvqa.cli.commands import in_one_line
from cdvqa.data.questions.official import read_questions
from cdvqa.metrics import vqa_score
from cdvqa.studies.command import publish, study_parser
from cdvqa.studies.jobs import Job, overlay_of, pipeline_job, run_jobs, run_seeds
from cdvqa.studies.table import ID, gaps, markdown, named_runs, spread, verdict
from cdvqa.worlds.scenes import SceneConstants, make_scenes, write_scenes

LOGS = Path("logs/backbones")
WORLD = Path("data/scenes")
BALANCED = Path("data/scenes-balanced")  # no feature noise, no answer priors
LEARNED = 0.9  # of the ceiling
GAIN = 3.0  # points out of distribution


def full(objective: str) -> partial[Job]:
    """Stage 1."""
    return partial(pipeline_job, stage=1, pipeline=[objective])


def mask(*objectives: str) -> partial[Job]:
    """Stage 2 at 50 % zeros."""
    return partial(pipeline_job, stage=2, pipeline=list(objectives))


FULL = {f"full {objective}": full(objective) for objective in ("bce", "lmh", "lpf")}
OMP = partial(pipeline_job, stage=2, pipeline=["bce"], method="omp")
# The runs of each backbone by name; the first has the plain objective.
RUNS: dict[str, dict[str, partial[Job]]] = {
    "lxmert": {**FULL, "OMP of bce 50 %": OMP, "bce+lmh 50 %": mask("bce", "lmh")},
    "visualbert": {**FULL, "OMP of bce 50 %": OMP, "bce+lmh 50 %": mask("bce", "lmh")},
    "mplug": {
        "full ce": full("ce"),
        "full lpf": full("lpf"),
        "ce+lpf 50 %": mask("ce", "lpf"),
        "lpf+lpf 50 %": mask("lpf", "lpf"),
    },
    "updn": FULL,
}


def backbones(names: list[str], seeds: int, at_once: int) -> str:
    """Run what is missing and return the report in Markdown."""
    make_scenes(WORLD)
    write_scenes(BALANCED, 0, SceneConstants().balanced())
    studies = {name: runs_of(name, seeds) for name in names}
    ceilings = {name: ceiling(name) for name in names}
    run_jobs(list(ceilings.values()), at_once)
    run_seeds({(name, run): row for name, jobs in studies.items() for run, row in jobs.items()}, at_once)
    blind = {split: f"{blind_accuracy(WORLD, split):.2f}" for split in ("id", "test")}
    lines = [
        "# Every backbone on `scenes`",
        "",
        f"{seeds} seeds, mean ± standard deviation; accuracy in percent. A backbone's ceiling is the accuracy of the",
        "same small model in distribution on the balanced world without noise (one seed). It has learned `scenes` if",
        f"its plain full model reaches {LEARNED:.0%} of that. The priors alone, that is the most frequent training",
        f"answer of each question type, score {blind['id']} in and {blind['test']} out of distribution.",
        "",
    ]
    return "\n".join([*lines, *(line for name in names for line in section(name, studies[name], ceilings[name]))])


def runs_of(backbone: str, seeds: int) -> dict[str, list[Job]]:
    """A backbone's jobs by name, one for each seed."""
    overlay = overlay_of(backbone)
    return {
        name: [job(LOGS, seed=seed, overlay=overlay) for seed in range(seeds)] for name, job in RUNS[backbone].items()
    }


def ceiling(backbone: str) -> Job:
    """The plain full model on the balanced world."""
    plain = next(iter(RUNS[backbone].values()))
    balanced = (f"--data.name={BALANCED.name}", f"--data.root={BALANCED}")
    return plain(LOGS, seed=0, overlay=(*overlay_of(backbone), *balanced))


def blind_accuracy(world: Path, split: str) -> float:
    """The accuracy of each question type's most frequent training answer, without the image."""
    train, asked = (
        read_questions(*(world / f"vqacp_v2_{part}_{kind}.json" for kind in ("questions", "annotations"))).annotations
        for part in ("train", split)
    )
    given: dict[str, Counter[str]] = {}
    for row in range(len(train.question_id)):
        given.setdefault(train.question_type[row], Counter())[train.multiple_choice_answer[row]] += 1
    usual = {kind: answers.most_common(1)[0][0] for kind, answers in given.items()}
    rows = range(len(asked.question_id))
    return 100 * fmean(vqa_score(usual[asked.question_type[row]], asked.answers[row]) for row in rows)


def section(backbone: str, jobs: dict[str, list[Job]], ceiling: Job) -> list[str]:
    """The results of one backbone."""
    runs, top = named_runs(jobs), named_runs({"ceiling": [ceiling]})[ID].item()
    plain, *others = jobs
    reached = runs.loc[runs["name"] == plain, ID].mean()
    learned = "learned" if reached >= LEARNED * top else "**not learned**"
    lines = [f"## {backbone}", "", f"Ceiling {top:.2f}; {plain} reaches {reached / top:.1%} of it: {learned}.", ""]
    lines += [markdown(runs, ["name"]), ""]
    return [*lines, *(gain_line(name, plain, gaps(runs, name, plain)) for name in others if name in FULL), ""]


def gain_line(debiased: str, plain: str, gains: pd.Series) -> str:
    """By how much a debiased objective helps, and whether that is enough."""
    better, worse = (name.removeprefix("full ").upper() for name in (debiased, plain))
    return (
        f"- {better} raises accuracy out of distribution over {worse} by {spread(gains)} "
        f"(asked ≥ {GAIN:g}): {verdict(gains, GAIN)}"
    )


def main() -> None:
    """Run the study and write its page."""
    parser = study_parser(__doc__)
    parser.add_argument("--backbone", choices=RUNS, action="append", help="only this one; may be repeated")
    arguments = parser.parse_args()
    names = arguments.backbone or ["visualbert", "mplug", "updn"]
    publish(backbones(names, arguments.seeds, arguments.jobs), LOGS / "backbones.md")


if __name__ == "__main__":
    sys.exit(in_one_line("backbones", main))
