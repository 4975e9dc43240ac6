"""The search for shares of zeros of the modalities."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdvqa.cli import main
from cdvqa.sparsity import LXMERT_COUNTS, MODALITIES, solve_budget
from cdvqa.studies.search.curves import least_loss
from cdvqa.studies.search.methods import METHODS, MOST, Auto, Grid, Outcome, Random, Trial
from cdvqa.studies.sweep.records import read_lines

COUNTS = {**LXMERT_COUNTS, "pooler": 589_824}


@pytest.mark.parametrize(("overall", "number"), [(0.5, 55), (0.7, 29), (0.9, 242)])
def test_the_papers_grid(overall: float, number: int):
    """Own count from App. C.4 and Eq. 10, the pooler left out."""
    trials = Grid(overall, COUNTS).next({})
    assert len(set(trials)) == len(trials) == number and Trial(overall, overall) in trials


def test_the_second_grid_is_finer_around_the_best():
    search = Grid(0.5, COUNTS)
    coarse = {trial: Outcome(-abs(trial.language - 0.5) - abs(trial.vision - 0.3)) for trial in search.next({})}
    assert search.best(coarse) == Trial(0.5, 0.3)
    fine = search.next(coarse)
    assert fine and not set(fine) & set(coarse) and {Trial(0.55, 0.35), Trial(0.5, 0.2)} <= set(fine)
    results = coarse | dict.fromkeys(fine, Outcome(-1.0)) | {Trial(0.55, 0.35): Outcome(1.0)}
    assert search.next(results) == [] and search.best(results) == Trial(0.55, 0.35)
    assert search.cost(results) == len(results) == 55 + len(fine)


@given(
    overall=st.floats(0.1, 0.95),
    sizes=st.tuples(*[st.integers(100, 10_000)] * 3),
    method=st.sampled_from(sorted(METHODS)),
    data=st.data(),
)
def test_every_trial_has_the_overall_sparsity_and_every_search_ends(
    overall: float, sizes: tuple[int, ...], method: str, data: Any
):
    counts = dict(zip(("language", "vision", "cross"), sizes, strict=True))
    search, results = METHODS[method](overall, counts), {}
    for _ in range(5):
        trials = search.next(results)
        assert len(set(trials)) == len(trials) and not set(trials) & set(results)
        for trial in trials:
            shares = solve_budget(overall, trial.language, trial.vision, counts=counts)
            assert all(0 <= share <= 1 for share in shares.values())
            assert sum(shares[name] * counts[name] for name in counts) == pytest.approx(overall * sum(sizes), rel=1e-6)
        shares = solve_budget(overall, overall, overall, counts=counts)  # of a callback that moved none
        results |= {trial: Outcome(data.draw(st.floats(0, 100)), shares) for trial in trials[:6]}  # the others failed
        if not trials:
            break
    assert trials == [] and search.best(results) in results


def test_random_trials_are_spread_near_the_overall_share_and_repeatable():
    trials = Random(0.9, COUNTS).next({})
    assert trials == Random(0.9, COUNTS).next({}) != Random(0.9, COUNTS, seed=1).next({})
    assert all(0.7 <= trial.vision <= MOST and 0.7 <= trial.language <= MOST for trial in trials)


@pytest.mark.parametrize(("overall", "number"), [(0.5, 8), (0.7, 4), (0.9, 36)])
def test_random_search_costs_15_percent_of_the_grid(overall: float, number: int):
    assert len(set(Random(overall, COUNTS).next({}))) == number


def test_shares_that_are_found_before_training_are_trained():
    search, found = Auto(0.5, COUNTS), {"language": 0.6, "vision": 0.3, "cross": 0.48}
    (first,) = search.next({})
    assert (first.language, first.vision) == (0.5, 0.5) and first.callback.endswith("Curves")
    results = {first: Outcome(99.0, found)}
    assert search.next(results) == [Trial(0.6, 0.3)]
    results |= {Trial(0.6, 0.3): Outcome(1.0)}
    assert search.next(results) == [] and search.best(results) == Trial(0.6, 0.3) and search.cost(results) == 1


def test_a_search_compares_assignments_on_the_development_split(
    cdvqa: Callable[..., int],
    study: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setattr("cdvqa.studies.search.methods.RANDOM_COST", 0.07)
    file = study([{"method": "mask", "pipeline": "bce+bce", "sparsity": 0.5}, {"pipeline": "bce"}])
    assert main(["search", str(file), "--method", "random"]) == 0
    lines = read_lines(Path("docs/study/tiny_study-random.jsonl"))
    assert len(lines) == 3 and {line["sparsity"]["overall"] for line in lines.values()} == {0.5}
    best = max(lines.values(), key=lambda line: line["dev"])
    page = Path("docs/study/tiny_study-random.md").read_text()
    assert "Full trainings a seed: 3." in page and f"{best['dev']:.2f}" in page
    assert (
        f"--model.sparsity.vision {best['sparsity']['vision']:.4f}`" in page
        and page.split("## ")[1] in capsys.readouterr().out
    )


def test_runs_of_the_study_itself_count_as_trials(
    cdvqa: Callable[..., int], study: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("cdvqa.studies.search.methods.RANDOM_COST", 0.03)
    file = study([{"method": "mask", "pipeline": "bce+bce", "sparsity": 0.5}])
    assert main(["search", str(file), "--method", "random"]) == 0
    records = Path("docs/study")
    page = (records / "tiny_study-random.md").read_text()
    (records / "tiny_study-random.jsonl").rename(records / "tiny_study.jsonl")
    shutil.rmtree("logs")
    assert main(["search", str(file), "--method", "random"]) == 0
    assert (records / "tiny_study-random.md").read_text() == page and not Path("logs").exists()


def test_auto_finds_shares_before_training_and_trains_them(
    cdvqa: Callable[..., int], study: Callable[..., Path], capsys: pytest.CaptureFixture[str]
):
    settings = {"trainer.limit_train_batches": 4, "trainer.log_every_n_steps": 1}
    file = study([{"method": "mask", "pipeline": "bce+bce", "sparsity": 0.5, "settings": settings}])
    assert main(["search", str(file)]) == 0
    lines = read_lines(Path("docs/study/tiny_study-auto.jsonl")).values()
    first, trained = sorted(lines, key=lambda line: line["steps"])
    assert first["steps"] == 1 and trained["steps"] > 1
    run = next(Path("logs").glob(f"*/*/{first['run']}/seed0"))
    rows = [row.split(",") for row in (run / "metrics.csv").read_text().splitlines()]
    logged = {row[-2].removeprefix("search/"): float(row[-1]) for row in rows if row[-2].startswith("search/")}
    levels = [0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7]
    curves = {name: [logged[f"loss/{name}/{level}"] for level in levels] for name in MODALITIES}
    counts = {name: 2 * first["settings"][f"model.sparsity.zeros.{name}"] for name in MODALITIES}  # it starts at 50 %
    assert {name: logged[f"share/{name}"] for name in MODALITIES} == pytest.approx(
        least_loss(levels, curves, 0.5, counts), abs=1e-6
    )
    for name in MODALITIES:
        realised = trained["selected"]["sparsity"]
        assert first["selected"]["sparsity"][name] == pytest.approx(logged[f"share/{name}"], abs=2e-3)
        assert realised[name] == pytest.approx(logged[f"share/{name}"], abs=2e-3)
        assert realised["overall"] == pytest.approx(0.5, abs=1e-3), "the budget is kept"
    assert "Full trainings a seed: 1." in capsys.readouterr().out


def test_a_study_without_mask_training_is_refused(
    cdvqa: Callable[..., int], study: Callable[..., Path], capsys: pytest.CaptureFixture[str]
):
    assert main(["search", str(study([{"pipeline": "bce"}]))]) == 2
    assert "tiny_study: no mask training at a given sparsity to search for" in capsys.readouterr().err


def test_auto_is_refused_for_a_pattern(
    cdvqa: Callable[..., int], study: Callable[..., Path], capsys: pytest.CaptureFixture[str]
):
    """Its curves are of single weights."""
    grid = {"method": "mask", "pipeline": "bce+bce", "sparsity": 0.5, "pattern": "structured"}
    assert main(["search", str(study([grid]))]) == 2
    assert "auto measures unstructured masks; use --method grid or random" in capsys.readouterr().err
    assert not Path("logs").exists() and not Path("docs").exists()


def test_a_search_of_runs_that_are_selected_on_test_is_refused(
    cdvqa: Callable[..., int], study: Callable[..., Path], capsys: pytest.CaptureFixture[str]
):
    grid = {"method": "mask", "pipeline": "bce+bce", "sparsity": 0.5, "settings": {"model.selection": "test"}}
    assert main(["search", str(study([grid]))]) == 2
    assert "selected on test; a search judges by the development split" in capsys.readouterr().err
    assert not Path("logs").exists() and not Path("docs").exists()
