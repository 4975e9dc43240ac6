"""VQA accuracies against the authors' program, the official evaluation code's values, and over two processes."""

import json
import pickle
import zipfile
from statistics import fmean

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cdvqa.data.batch import VQABatch
from cdvqa.errors import InputError
from cdvqa.metrics import (
    SplitAccuracy,
    VQAAccuracy,
    official_vqa_accuracy,
    official_vqa_score,
    vqa_accuracy,
    vqa_score,
    vqa_vs_scores,
)
from tests.data.toy import record
from tests.forking import SERVER

NINE = ("QT", "KW", "KWP", "QT+KW", "KO", "KOP", "QT+KO", "KW+KO", "QT+KW+KO")


def test_paper_rule_equals_the_authors_program(golden):
    arrays = golden("vqa_accuracy")
    annotations, predictions = json.loads(str(arrays["annotations"])), json.loads(str(arrays["predictions"]))
    accuracy = vqa_accuracy(predictions, annotations)
    values = [accuracy[group] for group in ("all", "yes/no", "number", "other")]
    np.testing.assert_allclose(values, arrays["unrounded"], atol=1e-6)
    assert [round(value, 2) for value in values] == arrays["reported"].tolist()


@pytest.fixture(scope="module")
def vqavs_val(shared):
    """The real VQA-VS validation annotations."""
    with zipfile.ZipFile(shared / "data" / "vqavs_val.zip") as archive:
        return json.loads(archive.read("Val/Val-Ans.json"))


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (lambda a: "yes", {"all": 24.20, "yes/no": 62.94, "number": 0.26, "other": 1.01}),
        (lambda a: "no", {"all": 24.11}),
        (lambda a: a["multiple_choice_answer"], {"all": 96.34, "yes/no": 100.00, "number": 96.24, "other": 93.58}),
        (lambda a: "The Yes.", {"all": 14.40}),
        (lambda a: "\tyes\n", {"all": 24.20}),
    ],
)
def test_official_rule_gives_the_official_values_on_real_answers(vqavs_val, answer, expected):
    predictions = [{"question_id": a["question_id"], "answer": answer(a)} for a in reversed(vqavs_val)]
    accuracy = official_vqa_accuracy(predictions, vqavs_val)
    assert {group: round(accuracy[group], 2) for group in expected} == expected
    assert set(accuracy) == {"all", "yes/no", "number", "other"}


def test_the_official_rule_normalises_only_where_annotators_differ():
    assert official_vqa_score("The Yes.", ["yes"] * 10) == 0
    assert official_vqa_score("The Yes.", ["yes"] * 9 + ["no"]) == 1
    assert official_vqa_score(" yes\n", ["yes"] * 10) == 1
    assert official_vqa_score("two", ["2"] * 2 + ["Two."] * 2 + ["3"] * 6) == 1


answers_lists = st.lists(st.sampled_from(["yes", "no", "maybe"]), min_size=10, max_size=10)


@given(answers_lists, st.sampled_from(["yes", "no", "other"]))
def test_official_score_is_the_mean_over_choices_of_nine(answers, prediction):
    nine = [answers[:i] + answers[i + 1 :] for i in range(10)]
    assert official_vqa_score(prediction, answers) == pytest.approx(fmean(vqa_score(prediction, part) for part in nine))


def test_paper_rule_counts_raw_strings():
    assert [vqa_score("yes", ["yes"] * n + ["no"] * (10 - n)) for n in range(5)] == [0, 1 / 3, 2 / 3, 1, 1]
    assert vqa_score("Yes", ["yes"] * 10) == 0


@pytest.mark.parametrize("accuracy", [vqa_accuracy, official_vqa_accuracy])
def test_groups_come_as_they_are_and_predictions_must_fit(accuracy):
    annotations = [record(i, "t", ["a"] * 10, "colour" if i else "shape") for i in range(3)]
    predictions = [{"question_id": i, "answer": "a" if i < 2 else "b"} for i in range(3)]
    assert accuracy(predictions, annotations) == pytest.approx({"all": 200 / 3, "shape": 100.0, "colour": 50.0})
    with pytest.raises(InputError, match="question 2 has no answer"):
        accuracy(predictions[:2], annotations)
    with pytest.raises(InputError, match="question 1 has two answers"):
        accuracy([*predictions, predictions[1]], annotations)
    with pytest.raises(InputError, match="question 2 has no annotation"):
        accuracy(predictions, annotations[:2])


def vqa_vs_case():
    annotations = [record(i, "t", ["a"] * (i % 4) + ["b"] * (10 - i % 4)) for i in range(20)]
    predictions = [{"question_id": i, "answer": "a"} for i in reversed(range(20))]
    return predictions, annotations, {name: range(i, i + 7) for i, name in enumerate(NINE)}


@pytest.mark.parametrize("rename", [str, lambda name: name.replace("+", "")])
def test_vqa_vs_means_are_over_rounded_sets(rename):
    predictions, annotations, ids = vqa_vs_case()
    result = vqa_vs_scores(predictions, annotations, {rename(name): members for name, members in ids.items()})
    exact = {rename(name): 100 * fmean(min(1, i % 4 / 3) for i in members) for name, members in ids.items()}
    sets = {name: round(score, 2) for name, score in exact.items()}
    assert result["ood"] == sets and result["iid"] == 50.0
    values = list(sets.values())
    assert result["ood_mean"] == pytest.approx(fmean(values), abs=1e-9)
    assert result["ood_lang"] == pytest.approx(fmean(values[:4]))
    assert result["ood_vis"] == pytest.approx(fmean(values[4:6]))
    assert result["ood_crsm"] == pytest.approx(fmean(values[6:]))
    assert abs(result["ood_mean"] - fmean(exact.values())) > 1e-6  # the rounding shows


def test_vqa_vs_wants_its_nine_sets():
    predictions, annotations, ids = vqa_vs_case()
    with pytest.raises(InputError, match="set KOP: missing"):
        vqa_vs_scores(predictions, annotations, {name: ids[name] for name in NINE if name != "KOP"})
    with pytest.raises(InputError, match="set KO is empty"):
        vqa_vs_scores(predictions, annotations, ids | {"KO": []})
    with pytest.raises(InputError, match="set KO: question 99 has no annotation"):
        vqa_vs_scores(predictions, annotations, ids | {"KO": [1, 99]})


QUESTION_TYPES, ANSWER_TYPES = ["how many", "is the", "never"], ["yes/no", "number", "other"]


def scores(n=101):
    generator = torch.Generator().manual_seed(5)
    score = torch.randint(0, 4, (n,), generator=generator) / 3
    return score, torch.randint(0, 2, (n,), generator=generator), torch.randint(0, 2, (n,), generator=generator)


def plain(score, question_type, answer_type):
    def mean(chosen):
        return 100 * score[chosen].double().mean().item()

    every = torch.ones(len(score), dtype=torch.bool)
    n = {"all": len(score)} | {ANSWER_TYPES[i]: int((answer_type == i).sum()) for i in range(2)}
    groups = {"all": mean(every)} | {ANSWER_TYPES[i]: mean(answer_type == i) for i in range(2)}
    return groups, {QUESTION_TYPES[i]: mean(question_type == i) for i in range(2)}, n


def check(result, expected):
    groups, per_question_type, n = expected
    assert result.pop("n") == n
    assert result.pop("per_question_type") == pytest.approx(per_question_type, abs=1e-9)
    assert result == pytest.approx(groups, abs=1e-9)


def test_metric_equals_the_plain_mean_and_leaves_empty_groups_out():
    metric = VQAAccuracy(QUESTION_TYPES, ANSWER_TYPES)
    assert metric.compute() == {"per_question_type": {}, "n": {"all": 0}}
    metric.reset()
    for part in zip(*(values.split(17) for values in scores()), strict=True):
        metric.update(*part)
    copy = pickle.loads(pickle.dumps(metric))
    for each in (metric, copy):
        check(each.compute(), plain(*scores()))
    metric.reset()
    assert metric.compute()["n"] == {"all": 0}


def test_a_split_and_its_sets_are_scored_by_both_rules():
    """Three of ten answers score 1 by the paper's rule and 0.9 by the official one."""
    batch = VQABatch(
        question_id=torch.tensor([1, 2]),
        question_type=torch.tensor([0, 1]),
        answer_type=torch.tensor([0, 2]),
        answers=[["a"] * 3 + ["b"] * 7, ["c"] * 10],
    )
    accuracy = SplitAccuracy(QUESTION_TYPES, ANSWER_TYPES, {"half": {1}})
    accuracy.update(batch, ["a", "a"])
    whole, half = accuracy.results("test").values()
    assert (whole["all"], whole["yes/no"], whole["other"]) == (50, 100, 0) and (half["all"], half["n"]["all"]) == (
        100,
        1,
    )
    assert whole["official"] == pytest.approx({"all": 45, "yes/no": 90, "other": 0})
    assert half["official"] == pytest.approx({"all": 90, "yes/no": 90})


def _worker(rank, folder):
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/sync", rank=rank, world_size=2)
    metric = VQAAccuracy(QUESTION_TYPES, ANSWER_TYPES)
    mine = slice(0, 37) if rank == 0 else slice(37, None)
    for part in zip(*(values[mine].split(10) for values in scores()), strict=True):
        metric.update(*part)
    (folder / f"{rank}.json").write_text(json.dumps(metric.compute()))
    torch.distributed.destroy_process_group()


def test_metric_on_two_processes_counts_every_question_once(tmp_path):
    processes = [SERVER.Process(target=_worker, args=(rank, tmp_path)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    for rank in range(2):
        check(json.loads((tmp_path / f"{rank}.json").read_text()), plain(*scores()))
