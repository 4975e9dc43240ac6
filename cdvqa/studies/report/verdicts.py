"""Whether a claim holds: the difference between two groups of runs, with a bootstrap interval."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cdvqa.data.datasets import make_data_set
from cdvqa.errors import InputError
from cdvqa.studies.report.table import Filter, select
from cdvqa.studies.sweep.scores import QuestionScores
from cdvqa.studies.sweep.study import checked_claim, plain_keys

DRAWS = 10_000
INTERVAL = (2.5, 97.5)  # percent
CELLS = 4_000_000  # question counts held at a time
HOLDS, FAILS, OPEN, NOT_RUN = "holds", "does not hold", "cannot be told apart", "not run"
SEEDS_ONLY = "only seeds resampled: no scores of single questions"
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Verdict:
    """A claim and what was measured, in points.

    Attributes:
        text, source, on: what is claimed, where, and on which accuracy.
        by: the margin that the difference has to exceed.
        verdict: `holds`, `does not hold`, `cannot be told apart` or `not run`.
        difference, low, high: the mean difference and the ends of its 95 % interval; NaN where it was not run.
        seeds, pairs: how many seeds and pairs of runs it is a mean over.
        note: what limits it.
    """

    text: str
    source: str
    on: str
    by: float
    verdict: str
    difference: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")
    seeds: int = 0
    pairs: int = 0
    note: str = ""


@dataclass
class Part:
    """The questions of a split that an accuracy is made of.

    Attributes:
        question_id: (N,).
        difference: (N,) mean difference of the pairs, in points.
        groups: masks (N,); the accuracy is the mean of the groups' means.
        pairs: how many pairs of runs `difference` is a mean over.
    """

    question_id: NDArray[np.int64]
    difference: Floats
    groups: list[NDArray[np.bool_]]
    pairs: int = 0


def verdicts(runs: pd.DataFrame, claims: Iterable[Mapping[str, Any]]) -> list[Verdict]:
    """Judge every claim of a study on its tested runs.

    Raises:
        InputError: a claim has an unknown key or no `text`, `better` or `worse`, or its filters name an unknown column
            or several runs of the same seed.
    """
    return [judge(runs, claim) for claim in claims]


def judge(runs: pd.DataFrame, claim: Mapping[str, Any]) -> Verdict:
    """Judge one claim."""
    claim = checked_claim(claim)
    on, by = str(claim.get("on", "ood")), claim.get("by", 0)
    stated = (str(claim["text"]), str(claim.get("source", "")), on, by)
    try:
        pairs = pair(runs, claim["better"], claim["worse"])
    except InputError as error:
        raise InputError(f"claim {claim['text']!r}: {error}") from error
    measured = pairs.assign(difference=differences_of(pairs, runs, on)).dropna(subset=["difference"])
    if measured.empty:
        return Verdict(*stated, NOT_RUN)
    by_seed = measured.groupby("seed")
    differences = by_seed["difference"].mean()
    questions = [question_differences(runs, rows, on) for _, rows in by_seed]
    known = same_questions(questions)
    draws = resample(known) if known else resample_seeds(differences.to_numpy())
    low, high = np.nanpercentile(draws, INTERVAL) if len(draws) else (-np.inf, np.inf)
    word = HOLDS if low > by else FAILS if high < by else OPEN
    notes = [*(["one seed"] if len(differences) == 1 else []), *([] if known else [SEEDS_ONLY])]
    mean = float(differences.mean())
    return Verdict(*stated, word, mean, low, high, len(differences), len(measured), "; ".join(notes))


def pair(runs: pd.DataFrame, better: Filter, worse: Filter) -> pd.DataFrame:
    """Pair the runs of two filters by data and seed, and by each column in which both have several values.

    These are the sparsity and the columns for which both filters have a list.

    Returns:
        Columns `seed`, `sparsity`, `better` and `worse`: the last two are positions in `runs`.

    Raises:
        InputError: a filter names an unknown column, or matches several runs of the same seed and sparsity.
    """
    filters = {"better": plain_keys(better, "better"), "worse": plain_keys(worse, "worse")}
    lists = {
        name: [column for column, values in wanted.items() if isinstance(values, list) and column in runs]
        for name, wanted in filters.items()
    }
    sides = []
    for name, wanted in filters.items():
        found = select(runs.reset_index(drop=True), wanted)
        keys = list(dict.fromkeys(["data", "seed", "sparsity", *lists[name]]))
        twice = found[found.duplicated(keys, keep=False)]
        if len(twice):
            names = ", ".join(sorted(set(twice["run"]))[:3])
            raise InputError(f"{name} matches several runs of one seed and sparsity ({names}); say which")
        sides.append(found.assign(**{name: found.index}))
    several = all(side["sparsity"].nunique() > 1 for side in sides)
    shared = [column for column in lists["better"] if column in lists["worse"]]
    keys = list(dict.fromkeys(["data", "seed", *(["sparsity"] if several else []), *shared]))
    columns = [list(dict.fromkeys([*keys, "sparsity", name])) for name in ("better", "worse")]
    left, right = (side[names] for side, names in zip(sides, columns, strict=True))
    pairs = left.merge(right, on=keys, suffixes=("", "_worse"))
    if "sparsity_worse" in pairs:  # a full model has 0
        pairs["sparsity"] = pairs[["sparsity", "sparsity_worse"]].max(axis=1)
    return pairs


def differences_of(pairs: pd.DataFrame, runs: pd.DataFrame, on: str) -> pd.Series:
    """Accuracy of the better run of each pair minus that of the worse one, in points; NaN where one has none."""
    if on not in runs:
        return pd.Series(np.nan, pairs.index)
    values = runs[on].to_numpy(np.float64)
    better, worse = (values[pairs[side].to_numpy(int)] for side in ("better", "worse"))
    return pd.Series(better - worse, pairs.index)


def question_differences(runs: pd.DataFrame, pairs: pd.DataFrame, on: str) -> dict[str, Part] | None:
    """The mean difference of one seed's pairs, question by question and by split.

    None if a run lacks the scores of single questions, or if the runs answered different questions.
    """
    found: dict[str, Part] = {}
    for better, worse in zip(pairs["better"], pairs["worse"], strict=True):
        lines = [runs["line"].iloc[row] for row in (better, worse)]
        for split, (first, second) in scores_of_both(*lines).items():
            groups = groups_of(lines[0], split, first, on)
            if not groups:
                continue
            if not np.array_equal(first.question_id, second.question_id):
                return None
            difference = 100 / 3 * (first.thirds.astype(float) - second.thirds)
            part = found.setdefault(split, Part(first.question_id, np.zeros(len(difference)), groups))
            if not np.array_equal(part.question_id, first.question_id):
                return None
            part.difference += difference / len(pairs)
            part.pairs += 1
    complete = found and all(part.pairs == len(pairs) for part in found.values())
    return found if complete else None


def same_questions(seeds: Sequence[Mapping[str, Part] | None]) -> list[Mapping[str, Part]]:
    """The parts of all seeds if these have scores, and of the same questions; otherwise an empty list."""
    known = [parts for parts in seeds if parts is not None]
    for parts in known:
        if parts.keys() != known[0].keys() or not all(
            np.array_equal(part.question_id, known[0][split].question_id) for split, part in parts.items()
        ):
            return []
    return known if len(known) == len(seeds) else []


def scores_of_both(
    first: Mapping[str, Any], second: Mapping[str, Any]
) -> dict[str, tuple[QuestionScores, QuestionScores]]:
    """The scores of the splits that both lines have."""
    kept = first.get("scores") or {}, second.get("scores") or {}
    return {
        split: (QuestionScores.unpack(kept[0][split]), QuestionScores.unpack(kept[1][split]))
        for split in kept[0]
        if split in kept[1]
    }


def groups_of(line: Mapping[str, Any], split: str, scores: QuestionScores, on: str) -> list[NDArray[np.bool_]]:
    """Masks (N,) of the groups of a split's questions: the accuracy `on` is the mean of the groups' means.

    Empty where no question of the split counts.
    """
    splits = line["results"]["splits"]
    every = {split: np.ones(len(scores.thirds), bool), **scores.sets}
    if on in every:
        return [every[on]]
    try:
        means = make_data_set(line["settings"].get("data.layout", "vqacp")).means()
    except InputError:  # a class that is not here
        means = {}
    if on in means:
        return [every[name] for name in means[on] if name in every]
    kind = "id" if on == "id" else "ood"
    chosen = [mask for name, mask in every.items() if splits[name]["distribution"] == kind]
    if on in ("id", "ood"):
        return chosen
    of_type = scores.answer_types.get(on)
    return [] if of_type is None else [mask & of_type for mask in chosen]


def resample(seeds: Sequence[Mapping[str, Part]]) -> Floats:
    """The mean difference over resampled seeds and, in each draw, resampled questions: (10,000,).

    The questions of a draw are the same for all seeds and test sets.
    """
    generator = np.random.default_rng(0)
    parts: defaultdict[str, list[Part]] = defaultdict(list)
    for seed in seeds:
        for split, part in seed.items():
            parts[split].append(part)
    sums, groups = np.zeros((DRAWS, len(seeds))), 0
    for alike in parts.values():
        masks = np.stack(alike[0].groups).astype(float)
        rows = np.concatenate([masks, *(masks * part.difference for part in alike)])
        drawn = resampled_sums(rows, generator).reshape(DRAWS, 1 + len(alike), len(masks))
        with np.errstate(invalid="ignore"):  # a draw without a question of a small group
            sums += (drawn[:, 1:] / drawn[:, :1]).sum(2)
        groups += len(masks)
    chosen = generator.integers(len(seeds), size=(DRAWS, len(seeds)))
    means: Floats = np.take_along_axis(sums / groups, chosen, 1).mean(1)
    return means


def resampled_sums(rows: Floats, generator: np.random.Generator) -> Floats:
    """Sums of the rows (R, N) over resampled columns: (10,000, R)."""
    number = rows.shape[1]
    at_once = max(1, CELLS // number)
    drawn = []
    for start in range(0, DRAWS, at_once):
        size = min(at_once, DRAWS - start)
        columns = generator.integers(number, size=(size, number)) + number * np.arange(size)[:, None]
        counts = np.bincount(columns.ravel(), minlength=size * number).reshape(size, number)
        drawn.append(counts.astype(float) @ rows.T)
    return np.concatenate(drawn)


def interval_of_mean(values: Floats) -> tuple[float, float]:
    """The 95 % interval of the mean of values (N,) over resampled questions.

    Scores are thirds, so there are few different values. How often each is drawn decides the mean, and a multinomial
    draws that at once: 10,000 draws of 220,000 questions take milliseconds instead of half a minute.
    """
    levels, counts = np.unique(values, return_counts=True)
    drawn = np.random.default_rng(0).multinomial(len(values), counts / len(values), DRAWS)
    low, high = np.percentile(drawn @ levels / len(values), INTERVAL)
    return float(low), float(high)


def resample_seeds(differences: Floats) -> Floats:
    """The mean difference over resampled seeds: (10,000,); none with one seed, of which no interval can be given."""
    number = len(differences)
    if number < 2:
        return np.array([])
    chosen = np.random.default_rng(0).integers(number, size=(DRAWS, number))
    means: Floats = differences[chosen].mean(1)
    return means


def verdict_table(judged: Sequence[Verdict]) -> pd.DataFrame:
    """A row per claim."""
    rows = []
    for one in judged:
        run = one.verdict != NOT_RUN
        finite = np.isfinite(one.low)
        rows.append(
            {
                "claim": one.text,
                "source": one.source,
                "on": one.on,
                "margin": f"> {one.by:g}",
                "difference": f"{one.difference:+.2f}" if run else "",
                "95 % interval": f"{one.low:+.2f} … {one.high:+.2f}" if run and finite else "",
                "seeds": str(one.seeds) if run else "",
                "pairs": str(one.pairs) if run else "",
                "verdict": one.verdict,
                "note": one.note,
            }
        )
    table = pd.DataFrame(rows)
    return table.loc[:, [name for name in table if name != "note" or (table[name] != "").any()]]
