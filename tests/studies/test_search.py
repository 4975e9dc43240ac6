"""The search for shares of zeros of the modalities."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdvqa.cli import main
from cdvqa.sparsity import LXMERT_COUNTS, solve_budget
from cdvqa.studies.search.command import with_trial
from cdvqa.studies.search.methods import METHODS, MOST, Grid, Halving, Outcome, Random, Score, Trial
from cdvqa.studies.sweep.records import read_lines
from cdvqa.studies.sweep.study import Point

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


@settings(deadline=None)
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


def test_halving_keeps_the_best_and_trains_them_longer():
    search = Halving(0.5, COUNTS)
    first = search.next({})
    assert len(first) == 16 and first[0] == Trial(0.5, 0.5, 1 / 20) and first[1].vision == pytest.approx(0.3)
    results = {trial: Outcome(float(number)) for number, trial in enumerate(first)}
    second = search.next(results)
    assert [(t.language, t.vision) for t in second] == [(t.language, t.vision) for t in first[:-6:-1]]
    results |= {trial: Outcome(100.0 - number) for number, trial in enumerate(second)}
    third = search.next(results)
    assert [trial.epochs for trial in third] == [1.0, 1.0]
    results |= {third[0]: Outcome(1.0), third[1]: Outcome(2.0)}
    assert search.next(results) == [] and search.best(results) == third[1]
    assert search.cost(results) == pytest.approx(0.8 + 1.0 + 2.0)


def test_random_trials_are_spread_near_the_overall_share_and_repeatable():
    trials = Random(0.9, COUNTS).next({})
    assert trials == Random(0.9, COUNTS).next({}) != Random(0.9, COUNTS, seed=1).next({})
    assert all(0.7 <= trial.vision <= MOST and 0.7 <= trial.language <= MOST for trial in trials)


@pytest.mark.parametrize(("overall", "number"), [(0.5, 8), (0.7, 4), (0.9, 36)])
def test_random_search_costs_15_percent_of_the_grid(overall: float, number: int):
    assert len(set(Random(overall, COUNTS).next({}))) == number


def test_shares_that_a_callback_found_are_trained_once_more():
    search, found = Score(0.5, COUNTS), {"language": 0.6, "vision": 0.3, "cross": 0.48}
    first = search.next({})
    assert [trial.callback.rpartition(".")[2] for trial in first] == ["Curves", "SquaredGradients"]
    assert {(trial.language, trial.epochs) for trial in first} == {(0.5, 0.0)}
    results = {trial: Outcome(99.0, found) for trial in first}
    again = search.next(results)
    assert again == [Trial(0.6, 0.3)]
    results |= {again[0]: Outcome(1.0)}
    assert search.next(results) == [] and search.best(results) == again[0] and search.cost(results) == 1.0


@pytest.mark.parametrize(
    ("part", "epochs", "expected"),
    [
        (1.0, 20, {}),
        (0.05, 20, {"trainer.max_epochs": 1}),
        (0.2, 7, {"trainer.max_epochs": 1}),
        (0.05, 7, {"trainer.max_epochs": 1, "trainer.limit_train_batches": 0.35}),
        (0.0, 7, {"trainer.max_epochs": 1, "trainer.max_steps": 1}),
    ],
)
def test_a_short_trial_has_its_part_of_the_epochs_or_of_one(part: float, epochs: int, expected: dict[str, Any]):
    """Guards: with 7 epochs, a twentieth and a fifth of them were both one epoch, the same run."""
    point = Point((), ("lmh", "lmh"), "mask", {"overall": 0.5}, {1: {}, 2: {}, 3: {}}, (0,))
    assert with_trial(point, Trial(0.5, 0.5, part), epochs).settings == {1: {}, 2: expected, 3: {}}


def test_a_search_compares_assignments_on_the_development_split(
    cdvqa: Callable[..., int], study: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: Any
):
    monkeypatch.setattr("cdvqa.studies.search.methods.AT_MOST", 0.07)
    file = study([{"method": "mask", "pipeline": "bce+bce", "sparsity": 0.5}, {"pipeline": "bce"}])
    assert main(["search", str(file), "--method", "random"]) == 0
    lines = read_lines(Path("docs/study/tiny_study-random.jsonl"))
    assert len(lines) == 3 and {line["sparsity"]["overall"] for line in lines.values()} == {0.5}
    best = max(lines.values(), key=lambda line: line["dev"])
    page = Path("docs/study/tiny_study-random.md").read_text()
    assert "3 trials cost 3.0 full trainings a seed" in page and f"{best['dev']:.2f}" in page
    assert (
        f"--model.sparsity.vision {best['sparsity']['vision']:.4f}`" in page
        and page.split("## ")[1] in capsys.readouterr().out
    )


@pytest.mark.parametrize(("method", "trials"), [("score", ["Curves", "SquaredGradients"]), ("adaptive", ["Prices"])])
def test_shares_move_and_are_then_trained_from_the_start(
    cdvqa: Callable[..., int], study: Callable[..., Path], method: str, trials: list[str], capsys: Any
):
    settings = {"trainer.limit_train_batches": 4, "trainer.log_every_n_steps": 1}
    file = study([{"method": "mask", "pipeline": "bce+bce", "sparsity": 0.5, "settings": settings}])
    assert main(["search", str(file), "--method", method]) == 0
    lines = list(read_lines(Path(f"docs/study/tiny_study-{method}.jsonl")).values())
    callbacks = [line["settings"]["trainer.callbacks"] for line in lines]
    assert sorted(c[0].rpartition(".")[2] for c in callbacks if c) == trials
    for line in lines:
        realised = line["selected"]["sparsity"]
        assert realised["overall"] == pytest.approx(0.5, abs=1e-3), "the budget is kept"
        if line["settings"]["trainer.callbacks"]:
            run = next(Path("logs").glob(f"*/*/{line['run']}/seed0"))
            logged = [row.split(",") for row in (run / "metrics.csv").read_text().splitlines() if "search/share" in row]
            last = {row[-2].rpartition("/")[2]: float(row[-1]) for row in logged}
            assert set(last) == {"language", "vision", "cross"}
            assert all(realised[name] == pytest.approx(share, abs=2e-3) for name, share in last.items())
    found = {tuple(round(line["selected"]["sparsity"][m], 2) for m in ("language", "vision")) for line in lines}
    fixed = [line for line, callback in zip(lines, callbacks, strict=True) if not callback]
    assert fixed and all(
        tuple(round(line["sparsity"][m], 2) for m in ("language", "vision")) in found for line in fixed
    )
    assert "moved by" in capsys.readouterr().out


def test_a_study_without_mask_training_is_refused(cdvqa: Callable[..., int], study: Callable[..., Path], capsys: Any):
    assert main(["search", str(study([{"pipeline": "bce"}]))]) == 2
    assert "tiny_study: no mask training at a given sparsity to search for" in capsys.readouterr().err
