"""The shipped studies: each becomes runs at both sizes, states what it costs, and judges runs that it has."""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pandas as pd
import pytest

from cdvqa.cli import main
from cdvqa.cli.configs import find_config, shipped
from cdvqa.cli.inspect import ConfigInspector
from cdvqa.data.datasets import VQAVS
from cdvqa.errors import InputError
from cdvqa.runs.folder import Run
from cdvqa.sparsity import solve_budget
from cdvqa.studies.report.drawing import KINDS
from cdvqa.studies.report.table import select
from cdvqa.studies.report.verdicts import pair
from cdvqa.studies.sweep.plan import jobs_of, stages_of
from cdvqa.studies.sweep.records import line_of
from cdvqa.studies.sweep.shares import shares_of
from cdvqa.studies.sweep.study import CLAIM, WORLDS, Point, Study, points_of, read_study
from tests.conftest import the_run

STUDIES = sorted(path.stem for path in (shipped() / "studies").glob("*.yaml"))
PAPER = [*(f"fig{number}" for number in range(1, 17)), "table1", "table2"]
# GPU hours of one training (docs/STUDIES.md).
HOURS = {("vqacp2", "lxmert"): 2.3, ("vqacp2", "visualbert"): 2.3, ("vqacp2", "mplug"): 5.4, ("vqacp2", "updn"): 0.3,
         ("vqacp2", "smrl"): 0.5, ("vqavs", "lxmert"): 2.5, ("vqavs", "updn"): 0.4}  # fmt: skip
ANSWERS, MEANS = ("yes/no", "number", "other"), tuple(VQAVS().means())
SHARES = {0.5: (0.5, 0.3), 0.7: (0.7, 0.5), 0.9: (0.9, 0.9)}


@pytest.fixture
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Results of fig8 at both sizes, in an empty working folder."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "docs/study"
    folder.mkdir(parents=True)
    for name in ("fig8.jsonl", "fig8-micro.jsonl"):
        write(folder / name, [(overall, *shares, 0, 50.0) for overall, shares in SHARES.items()])
    return folder


def write(
    path: Path, results: list[tuple[float, float, float, int, float | None]], rate: float = 1, day: int = 1
) -> None:
    """Add records: overall share, shares of language and vision, seed, development accuracy."""
    lines = [
        {"identity": f"{overall} {language} {vision} {rate}", "seed": seed, "dev": accuracy, "results": {},
         "finished": f"2026-01-{day:02}", "settings": {"model.lr": rate, "model.sparsity.zeros.language": language},
         "sparsity": {"assignment": "modality", "overall": overall, "language": language, "vision": vision}}
        for overall, language, vision, seed, accuracy in results
    ]  # fmt: skip
    with path.open("ab") as file:
        file.write(b"".join(orjson.dumps(line) + b"\n" for line in lines))


def runs_with_parents(study: Study) -> Counter[tuple[str, str, bool]]:
    """The number of runs by data set, backbone, and whether they train; a point's chain told apart by its options."""
    runs = set()
    for point in study.points:
        stages = stages_of(point.pipeline, point.method)
        place = tuple(name.removesuffix(".yaml") for name in (point.configs[0], point.configs[-1]))
        for stage, objective in stages:
            settings = [point.settings[number] for number in range(1, stage + 1)]
            options = str((stages[:stage], settings, dict(point.sparsity) if stage > 1 else {}))
            runs |= {(*place, objective is not None, options, seed) for seed in point.seeds}
    return Counter((data, backbone, trains) for data, backbone, trains, *_ in runs)


def test_every_figure_and_table_of_the_paper_has_a_study():
    assert set(PAPER) < set(STUDIES)


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_costs_what_it_says(name: str, records: Path):
    study = read_study(name, records=records)
    counts = runs_with_parents(study)
    assert sum(counts.values()) == study.cost["runs"] and study.about
    trained = {key[:2]: number for key, number in counts.items() if key[2]}
    hours = sum(HOURS.get(key, 0) * number for key, number in trained.items())
    assert study.cost["gpu_hours"] == round(hours)
    assert {len(point.seeds) for point in study.points} <= ({4} if name in PAPER else {1, 2, 4})


@pytest.mark.parametrize("name", ["fig4", "fig6", "fig8", "table1", "table2"])
@pytest.mark.parametrize("size", [None, "micro"])
def test_the_points_of_a_study_are_runs_of_their_own(name: str, size: str | None, records: Path, scenes: Path):
    """A sample of them; at micro size with the small models of the embedded world."""
    Path("data").mkdir()
    for world in ("scenes", "scenes-vs"):
        (Path("data") / world).symlink_to(scenes)
    points = [replace(point, seeds=(0,)) for point in read_study(name, size, records=records).points]
    sample = points[:: 1 + len(points) // 4]
    jobs = jobs_of(sample, Path("logs"))
    assert len({job.identity for job in jobs}) == len(sample)
    folders = {job.run.folder.parts[1] for job in jobs}
    assert folders <= {f"{WORLDS[data]}-micro" if size else data for data in WORLDS}


@pytest.mark.parametrize("name", STUDIES)
def test_no_run_is_there_twice_with_fewer_seeds(name: str, records: Path):
    """`--seeds 1` replaces the seeds of every grid."""
    points = [repr(point) for point in read_study(name, seeds=1, records=records).points]
    assert len(set(points)) == len(points)


@pytest.mark.parametrize("name", STUDIES)
def test_claims_and_figure_are_about_runs_that_the_study_has(name: str, records: Path):
    """Each claim pairs runs of all its seeds, one with one; no run is without a claim's or a figure's column."""
    study = read_study(name, records=records)
    runs = pd.DataFrame([row_of(point) | {"seed": seed} for point in study.points for seed in point.seeds])
    for claim in study.claims:
        assert set(claim) <= CLAIM and claim["source"] and claim.get("on", "ood") in (*ANSWERS, *MEANS, "id", "ood")
        pairs = pair(runs, claim["better"], claim["worse"])
        assert len(pairs) and set(pairs["seed"]) == set(select(runs, claim["better"])["seed"]), claim["text"]
        for column, side in (("better", claim["better"]), ("worse", claim["worse"])):
            found = runs.loc[pairs[column]]
            assert all(asked <= len(found[key].unique()) for key, asked in lengths(side).items()), claim["text"]
    drawn = study.figure
    assert drawn.get("kind", "curves") in KINDS and drawn.get("panels", "seed") in runs
    assert set(drawn.get("on", [])) <= {*ANSWERS, *MEANS, "id", "ood"}
    assert all(len(pair(runs, gap["better"], gap["worse"])) for gap in drawn.get("gap", []))


def lengths(wanted: Mapping[str, Any]) -> dict[str, int]:
    """How many values a filter lists of each column."""
    return {key: len(values) for key, values in wanted.items() if isinstance(values, list)}


def row_of(point: Point) -> dict[str, Any]:
    """What the report's table has of a point."""
    plan, stages = point.sparsity, dict(stages_of(point.pipeline, point.method))
    shares = {name: plan.get(name, plan.get("overall")) for name in ("language", "vision", "cross")}
    pruned = [name for name, share in shares.items() if share]
    module = pruned[0] if len(pruned) == 1 else "all" if plan else ""
    return {
        "run": str(point),
        "data": point.settings[1].get("data.name", point.configs[0].removesuffix(".yaml")),
        "backbone": re.sub(r"^scenes_|\.yaml$", "", point.configs[-1]),
        "pipeline": "+".join(point.pipeline),
        "stage1": stages[1],
        "stage": len(stages),
        "method": point.method,
        "module": module,
        "sparsity": plan.get("overall", plan.get(module, 0)),
        "overall": plan.get("overall", 0),
        "assignment": plan.get("assignment", "uniform") if plan else "",
        "criterion": plan.get("criterion", "magnitude") if plan else "",
        "pattern": plan.get("pattern", "unstructured") if plan else "",
        "settings": point.settings[len(stages)],
        **shares,
    }


def test_fig8_has_the_assignments_of_the_paper():
    """App. C.4 with LXMERT-base's numbers of weights: how many are feasible, and that all have the asked budget."""
    configs, numbers = ("vqacp2.yaml", "lxmert.yaml"), {0.5: 55, 0.7: 29, 0.9: 242}
    for overall, number in numbers.items():
        levels = (0.8, 0.98, 0.02) if overall == 0.9 else (0.1, 0.9, 0.2)
        wanted = dict(zip(("from", "to", "step"), levels, strict=True))
        found = shares_of(wanted, overall, configs, Path("docs"), None)
        assert len(found) == number
        for shares in found:
            solved = solve_budget(overall, shares["language"], shares["vision"])
            assert all(0 <= share <= 1 for share in solved.values())
            given = [any(abs(level - share) < 1e-9 for level in levels_of(*levels)) for share in solved.values()]
            assert sum(given) >= 2


def levels_of(first: float, last: float, step: float) -> list[float]:
    return [first + step * number for number in range(round((last - first) / step) + 1)]


def shares_at(sparsity: float, size: str | None = None) -> tuple[float, float]:
    """The shares of language and vision that a study takes from fig8."""
    grid = {"data": "vqacp2", "backbone": "lxmert", "pipeline": "lpf+lmh", "method": "mask", "sparsity": sparsity}
    (point,) = points_of({**grid, "shares": {"best_of": "fig8"}}, size)
    assert point.sparsity["assignment"] == "modality" and point.sparsity["overall"] == sparsity
    return point.sparsity["language"], point.sparsity["vision"]


def test_the_best_shares_are_those_of_the_development_split(records: Path):
    """The highest mean among those with the most seeds; what has no development accuracy does not count."""
    (records / "fig8.jsonl").unlink()
    seeds = [(0.5, 0.6, 0.2, 0, 50.0), (0.5, 0.6, 0.2, 1, 52.0), (0.5, 0.5, 0.5, 0, 48.0), (0.5, 0.5, 0.5, 1, 53.0)]
    write(records / "fig8.jsonl", [*seeds, (0.5, 0.7, 0.1, 0, 90.0), (0.5, 0.9, 0.1, 0, None), (0.7, 0.8, 0.4, 0, 9.0)])
    assert shares_at(0.5) == (0.6, 0.2) and shares_at(0.7) == (0.8, 0.4)
    assert shares_at(0.5, "micro") == SHARES[0.5]
    assert shares_at(0.1) == pytest.approx((0.12, 0.04))
    write(records / "fig8-grid.jsonl", [(0.5, 0.65, 0.25, seed, 60.0) for seed in (0, 1)])  # of cdvqa search
    assert shares_at(0.5) == (0.65, 0.25)


def test_results_of_other_settings_do_not_count(records: Path):
    """The records may still hold runs of a world or a config that has changed since."""
    write(records / "fig8.jsonl", [(0.5, 0.55, 0.35, 0, 40.0)], rate=2, day=2)
    assert shares_at(0.5) == (0.55, 0.35)
    with pytest.raises(InputError, match="no assignment of 70 % zeros"):
        shares_at(0.7)


def test_a_setting_that_older_records_lack_is_as_in_the_baseline(records: Path):
    """Else the results of an older cdvqa do not count, and a study takes the shares of another sparsity."""
    (records / "fig8.jsonl").unlink()
    write(records / "fig8.jsonl", [(0.9, 0.95, 0.8, 0, 50.0)], day=2)
    newer = (records / "fig8.jsonl").read_bytes()
    newer = newer.replace(b'"settings":{', b'"settings":{"model.sparsity.pattern":"unstructured",')
    (records / "fig8.jsonl").write_bytes(newer)
    write(records / "fig8.jsonl", [(0.5, 0.6, 0.2, 0, 50.0)])
    assert shares_at(0.5) == (0.6, 0.2)


def test_the_best_shares_are_a_run_of_fig8(records: Path):
    """So that nothing is trained twice."""
    best = [point for point in read_study("fig9", records=records).points if "language" in point.sparsity]
    searched = read_study("fig8", records=records).points
    assert len(best) == 3 and all(point in searched for point in best)


def test_without_the_result_of_fig8_the_study_is_refused(records: Path, capsys: pytest.CaptureFixture[str]):
    for file in records.iterdir():
        file.unlink()
    assert main(["sweep", "fig9", "--size", "micro", "--dry_run"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "grid 3 of runs: docs/study/fig8-micro.jsonl: no assignment of 50 % zeros" in line
    assert "from the result of `cdvqa sweep fig8 --size micro`" in line
    write(records / "fig8.jsonl", [(0.5, 0.6, 0.2, 0, 50.0)])
    with pytest.raises(InputError, match="no assignment of 90 % zeros"):
        shares_at(0.9)


def test_shares_of_two_kinds_are_refused():
    grid = {"data": "vqacp2", "backbone": "lxmert", "pipeline": "lmh+lmh", "method": "mask"}
    for wrong in ({"shares": {"best_of": "fig8"}}, {"sparsity": 0.5, "shares": {"best_of": "fig8", "language": 0.5}}):
        with pytest.raises(InputError, match="shares: best_of stand"):
            list(points_of({**grid, **wrong}))


def test_a_record_has_the_accuracy_on_the_development_split_but_none_of_a_test(cdvqa: Callable[..., int]):
    """Shares are chosen by it, so it must never be an accuracy on test."""
    for selection, seed in (("dev", 0), ("test", 1)):
        assert cdvqa("fit", "stage1_bce.yaml", f"--model.selection={selection}", f"--seed_everything={seed}") == 0
    selected, on_test = line_of(Run(the_run("stage1_bce"))), line_of(Run(the_run("stage1_bce", 1)))
    assert selected["dev"] == pytest.approx(Run(the_run("stage1_bce")).read()["selected"]["best"])
    assert on_test["selection"] == "test" and on_test["dev"] is None


@pytest.mark.parametrize(
    ("name", "study", "stage", "pipeline"),
    [
        ("fig7_visualbert_lpf+lmh.yaml", "fig7", 2, ("lpf", "lmh")),
        ("table1_mplug_ce+lpf.yaml", "table1", 2, ("ce", "lpf")),
        ("table1_updn_lmh.yaml", "table1", 1, ("lmh",)),
        ("table2_updn_ce.yaml", "table2", 1, ("ce",)),
    ],
)
def test_a_config_of_one_run_is_a_run_of_the_study(
    name: str, study: str, stage: int, pipeline: tuple[str, ...], records: Path
):
    """`cdvqa fit --config fig7_visualbert_lpf+lmh.yaml` makes what `cdvqa sweep fig7` counts as done."""
    backbone = name.split("_")[1]
    points = [
        point
        for point in read_study(study, records=records).points
        if point.pipeline == pipeline and point.configs[-1] == f"{backbone}.yaml"
        if stage == 1 or point.sparsity["overall"] == 0.5
    ]
    (job,) = jobs_of([replace(point, seeds=(0,)) for point in points], Path("logs"))
    planned = ConfigInspector(["--config", name]).plan(job.parent and job.parent.source)
    assert planned.folder == job.run.folder


def test_a_study_is_no_config_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "--config", "fig2.yaml"]) == 2
    assert "--config fig2.yaml: a study of many runs; `cdvqa sweep fig2` runs them" in capsys.readouterr().err
    assert find_config("easyvqa.yaml").endswith("data/easyvqa.yaml")
    assert main(["sweep", "fig99", "--dry_run"]) == 2
    assert "study fig99: no such file, and no shipped study of this name; shipped are backbones" in (
        capsys.readouterr().err
    )
