"""Verdicts: pairs, the two-level bootstrap, and the four words."""

from typing import Any

import numpy as np
import pytest
import yaml

from cdvqa.errors import InputError
from cdvqa.studies.report.table import runs_table
from cdvqa.studies.report.verdicts import FAILS, HOLDS, NOT_RUN, OPEN, SEEDS_ONLY, Verdict, verdict_table, verdicts
from cdvqa.studies.sweep.scores import packed
from tests.studies.made_up import IDS, first, line

LMH, BCE = {"pipeline": "bce+lmh"}, {"pipeline": "bce"}
HALF = [3, 0] * 200


def judge(lines: list[dict[str, Any]], **claim: Any) -> Verdict:
    runs = runs_table(lines)[0]
    return verdicts(runs, [{"text": "t", "better": LMH, "worse": BCE, **claim}])[0]


def both(better: list[int], worse: list[int], seeds: int = 1) -> list[dict[str, Any]]:
    return [one for seed in range(seeds) for one in (line("bce+lmh", seed, better, 0.5), line("bce", seed, worse))]


def test_the_interval_over_questions_is_that_of_a_mean():
    """One seed, 400 questions of which 120 are better: sqrt(.3 * .7 / 400) = 2.29 points."""
    found = judge(both(first(120), first(0)))
    assert found.difference == pytest.approx(30) and found.note == "one seed"
    assert found.low == pytest.approx(30 - 1.96 * 2.29, abs=0.4)
    assert found.high == pytest.approx(30 + 1.96 * 2.29, abs=0.4)


def test_questions_are_paired_by_their_ids():
    """The same accuracy on other questions is as uncertain as it is; on the same questions nothing is."""
    same = judge(both(HALF, HALF))
    assert same.low == same.high == 0
    other = judge(both(HALF, HALF[::-1]))
    assert other.difference == pytest.approx(0) and other.low < -5 and other.high > 5


def test_seeds_that_disagree_widen_the_interval():
    lines = [line("bce+lmh", seed, first(right), 0.5) for seed, right in enumerate((80, 160))]
    lines += [line("bce", seed, first(0)) for seed in range(2)]
    found = judge(lines)
    assert found.difference == pytest.approx(30) and found.low < 20 + 1 and found.high > 40 - 1


@pytest.mark.parametrize(
    ("right", "by", "word"),
    [(120, 10, HOLDS), (120, 40, FAILS), (120, 30, OPEN), (0, 0, OPEN), (0, -0.5, HOLDS)],
)
def test_the_words(right: int, by: float, word: str):
    """`No worse than` has the margin -0.5; equal runs are not better than each other."""
    assert judge(both(first(right), first(0), seeds=2), by=by).verdict == word


def test_a_side_that_was_not_run_is_said():
    found = judge([line("bce", 0, HALF)])
    assert found.verdict == NOT_RUN
    assert list(verdict_table([found])["difference"]) == [""]
    lonely = judge([line("bce", 0, HALF), line("bce+lmh", 1, HALF, 0.5)])
    assert lonely.verdict == NOT_RUN, "no seed has both"


def test_without_scores_of_questions_only_seeds_are_resampled():
    lines = [line("bce+lmh", seed, None, 0.5) for seed in range(3)] + [line("bce", seed, None) for seed in range(3)]
    for one, accuracy in zip(lines, (50, 52, 54, 40, 40, 40), strict=True):
        one["results"]["splits"]["test"]["all"] = accuracy
    found = judge(lines)
    assert found.difference == 12 and (found.low, found.high) == (10, 14) and found.verdict == HOLDS
    assert found.note == SEEDS_ONLY
    alone = judge([lines[0], lines[3]])
    assert alone.verdict == OPEN and list(verdict_table([alone])["95 % interval"]) == [""]


def test_several_sparsities_are_paired_with_themselves_or_with_the_full_model():
    def at(pipeline: str, zeros: float, right: int) -> dict[str, Any]:
        return line(pipeline, 0, first(right), zeros)

    lines = [at("bce+lmh", 0.3, 200), at("bce+lmh", 0.5, 160), at("lmh+lmh", 0.5, 120), at("lmh+lmh", 0.7, 0)]
    lines.append(line("bce", 0, first(100)))
    full = judge(lines)
    assert full.pairs == 2 and full.difference == pytest.approx(20)
    common = judge(lines, worse={"pipeline": "lmh+lmh"})
    assert common.pairs == 1 and common.difference == pytest.approx(10), "both have 50 % alone"
    named = judge(
        lines, better={"pipeline": "bce+lmh", "sparsity": 0.3}, worse={"pipeline": "lmh+lmh", "sparsity": 0.7}
    )
    assert named.difference == pytest.approx(50)


def test_two_lists_of_a_column_are_paired_by_it():
    runs = {
        ("lmh+lmh", "uniform"): 100,
        ("lmh+lmh", "modality"): 140,
        ("bce+bce", "uniform"): 20,
        ("bce+bce", "modality"): 40,
    }
    lines = [line(p, 0, first(right), 0.5, plan={"assignment": a}) for (p, a), right in runs.items()]
    pipelines = ["lmh+lmh", "bce+bce"]
    sides = {
        "better": {"pipeline": pipelines, "assignment": "modality"},
        "worse": {"pipeline": pipelines, "assignment": "uniform"},
    }
    found = judge(lines, **sides)
    assert found.pairs == 2 and found.difference == pytest.approx(7.5)


def test_shares_that_give_nearly_the_overall_sparsity_are_paired_with_it():
    """The zeros of each module are whole numbers, so 70 % may come out as 69.98 %."""
    lines = [line("lmh+lmh", 0, first(right), zeros) for right, zeros in ((100, 0.5), (90, 0.7))]
    shared = {"assignment": "modality"}
    lines += [line("lmh+lmh", 0, first(right), zeros, plan=shared) for right, zeros in ((140, 0.5001), (130, 0.6998))]
    found = judge(lines, better={"assignment": "modality"}, worse={"assignment": "uniform"})
    assert found.pairs == 2 and found.difference == pytest.approx(10)


def test_an_answer_type_has_its_own_questions():
    lines = both(first(300), first(200))  # the first 200 are yes/no
    assert judge(lines, on="yes/no").difference == 0 and judge(lines, on="yes/no").high == 0
    number = judge(lines, on="number")
    assert number.difference == pytest.approx(50) and 40 < number.low < 50 < number.high < 60
    assert judge(lines, on="other").verdict == NOT_RUN
    unquoted: dict[Any, Any] = yaml.safe_load("{text: t, on: number, better: {stage: 2}, worse: {stage: 1}}")
    assert verdicts(runs_table(lines)[0], [unquoted])[0].difference == number.difference


def test_a_mean_over_test_sets_weighs_them_equally():
    """VQA-VS: QT has 40 questions, KW 360; each counts one half in a mean of two."""
    sets = {"QT": IDS < 140, "KW": IDS >= 140}
    lines = both(first(40), first(0))
    for one, right in zip(lines, (first(40), first(0)), strict=True):
        one["settings"]["data.layout"] = "vqavs"
        scores = one["scores"].pop("test")
        one["scores"]["iid"] = scores | {"sets": {name: packed(np.packbits(mask)) for name, mask in sets.items()}}
        thirds = np.array(right)
        splits = {
            name: {"all": float(100 * thirds[mask].mean() / 3), "distribution": "ood"} for name, mask in sets.items()
        }
        one["results"]["splits"] = {"iid": {"all": float(100 * thirds.mean() / 3), "distribution": "id"}, **splits}
        one["results"]["means"] = {"ood_mean": float(np.mean([split["all"] for split in splits.values()]))}
    found = judge(lines)
    assert found.difference == 50 and found.low == pytest.approx(50) and found.high == pytest.approx(50)
    assert judge(lines, on="QT").difference == 100 and judge(lines, on="id").difference == pytest.approx(10)


@pytest.mark.parametrize(
    ("claim", "message"),
    [
        ({"worst": BCE}, "claim 't': missing or unknown: worst"),
        ({"better": "bce+lmh"}, "claim 't': better: expected a mapping, not 'bce\\+lmh'"),
        ({"by": "many"}, "claim 't': by: expected a number of points, not 'many'"),
        ({"better": {"objective": "lmh"}}, "claim 't': objective: no column"),
        ({"better": {"method": "mask"}}, r"better matches several runs of one seed and sparsity \(.*\); say which"),
    ],
)
def test_a_claim_that_cannot_be_judged_is_refused(claim: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        judge([*both(HALF, HALF), line("lmh+lmh", 0, HALF, 0.5)], **claim)
