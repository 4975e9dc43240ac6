"""The page of a report, from runs that were trained: in a browser, and what its parts say."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cdvqa.cli import main
from cdvqa.data.datasets import make_data_set
from cdvqa.files import read_json, write_json
from cdvqa.metrics import vqa_vs_scores
from cdvqa.runs.folder import Run
from cdvqa.studies.report.overlap import overlap_table
from cdvqa.studies.report.page import MOST, embedded, page
from cdvqa.studies.report.table import read_logs, runs_table
from cdvqa.studies.report.verdicts import groups_of, verdicts
from cdvqa.studies.sweep.records import append_lines, line_of, read_lines
from cdvqa.studies.sweep.scores import QuestionScores, scores_of
from cdvqa.worlds.scenes_vs import ShortcutConstants, write_scenes_vs
from tests.chromium import Page, find_chromium
from tests.conftest import overlay


@pytest.fixture(scope="module")
def folder(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working folder with the logs of a full model and two subnetworks, one epoch each, and their report."""
    folder, before = tmp_path_factory.mktemp("report"), Path.cwd()
    os.chdir(folder)
    try:
        world = [*overlay(scenes), "--trainer.max_epochs=1"]
        commands = [["stage1_bce.yaml"]] + [["stage2_omp.yaml", f"--model.sparsity.overall={s}"] for s in (0.3, 0.5)]
        for config, *options in commands:
            args = ["--config", config, *world, *options, *(["--model.parent_objective=bce"] if options else [])]
            assert main(["fit", *args]) == 0 and main(["test", *args]) == 0
        assert main(["report"]) == 0
        yield folder
    finally:
        os.chdir(before)


@pytest.fixture
def runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    monkeypatch.chdir(folder)
    return runs_table(read_logs(Path("logs"))[0])[0]


def test_the_scores_of_single_questions_are_those_of_the_results(runs: pd.DataFrame):
    for line in runs["line"]:
        assert set(line["scores"]) == {"id", "test"}
        for split, kept in line["scores"].items():
            found, result = QuestionScores.unpack(kept), line["results"]["splits"][split]
            assert 100 * found.thirds.mean() / 3 == pytest.approx(result["all"])
            for name, mask in found.answer_types.items():
                assert 100 * found.thirds[mask].mean() / 3 == pytest.approx(result[name])


def test_scores_of_other_questions_are_not_kept(runs: pd.DataFrame, tmp_path: Path):
    """The data may have been made again since the test."""
    line = runs["line"].iloc[0]
    source = Run(Path("logs") / line["data"] / line["backbone"] / line["run"] / f"seed{line['seed']}")
    copy = Run(tmp_path / "d" / "b" / "r" / "seed0")
    for name in ("run.json", "config.yaml", "results.json", "predictions/id.json", "predictions/test.json"):
        (copy.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (copy.folder / name).write_bytes((source.folder / name).read_bytes())
    answers = read_json(copy.predictions("id"))
    write_json(copy.predictions("id"), answers[1:])
    results = read_json(copy.results)
    results["splits"]["test"]["all"] += 1
    write_json(copy.results, results)
    assert line_of(copy)["scores"] == {}


def test_records_alone_give_the_same_verdicts(runs: pd.DataFrame, tmp_path: Path):
    append_lines(tmp_path / "all.jsonl", runs["line"])
    again, _ = runs_table(read_lines(tmp_path / "all.jsonl").values())
    claim = {"text": "t", "better": {"method": "omp"}, "worse": {"method": "full"}}
    (found,) = verdicts(runs, [claim])
    assert verdicts(again, [claim]) == [found] and found.pairs == 2 and found.note == "one seed"


def test_masks_overlap_as_counted(runs: pd.DataFrame):
    """One-shot masks at 30 % and 50 % of the same weights: but only those of one sparsity are compared."""
    table, problems = overlap_table(runs, Path("logs"))
    assert table.empty and not problems
    same = runs.assign(overall=0.5)
    table, _ = overlap_table(same.assign(curve=same["run"]), Path("logs"))
    (row,) = table.to_dict("records")
    assert row["between"] == "objectives or stages"
    index, chance = (float(number.strip("()")) for number in row["cross"].split())
    assert index == pytest.approx(0.3 / 0.5, abs=0.01), "the smaller weights are zero in both"
    assert chance == pytest.approx(0.15 / 0.65, abs=0.01)


def test_the_page_needs_no_network_and_stays_small(folder: Path):
    text = (folder / "logs/report/report.html").read_text()
    assert len(text) < MOST and "http://" not in text.replace("http://www.w3.org", "") and "https://" not in text
    assert "default-src 'none'" in text


def test_questions_are_left_out_where_the_page_would_be_too_large(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("cdvqa.studies.report.page.MOST", 40_000)
    questions = [{"image": number, "text": "x" * 50} for number in range(300)]
    images = {number: {"uri": "data:" + "y" * 500} for number in range(300)}
    text = page("t", "", [], [], [], {"questions": questions, "images": images, "data": "d", "models": []})
    assert len(text) < 40_000 and '"image":0' in text and '"image":1,' not in text


def test_answers_are_no_markup():
    assert "</script" not in embedded({"text": "</script><script>alert(1)</script>"})


def test_the_report_in_a_browser(folder: Path, tmp_path: Path):
    program = find_chromium()
    if program is None:
        pytest.skip("no Chromium here: install the package chromium")
    with Page(program, tmp_path) as browser:
        browser.open(folder / "logs/report/report.html")
        sizes = browser.find("[...document.querySelectorAll('figure img')].map(i => [i.complete, i.naturalWidth])")
        assert len(sizes) >= 4 and all(complete and width > 200 for complete, width in sizes)
        assert browser.find("document.querySelectorAll('table[data-name=results] tbody tr').length") == 3
        check_filters(browser)
        check_sorting(browser)
        assert browser.errors == []


def check_filters(browser: Page) -> None:
    """Every filter shows the questions that it names, and their images."""

    def shown() -> int:
        return int(browser.find("document.getElementById('count').textContent.split(' ')[0]"))

    everything: list[dict[str, Any]] = browser.find("data.questions")
    assert shown() == len(everything) == 160
    assert browser.find("document.querySelectorAll('.picture img').length") == 20
    assert browser.find("document.querySelector('.picture img').naturalWidth") == 128
    assert browser.find("document.querySelectorAll('.picture rect').length") > 20
    for key in ("split", "question_type", "answer_type"):
        value = everything[-1][key]
        browser.choose(key, value)
        assert shown() == sum(question[key] == value for question in everything) < len(everything)
        browser.choose(key, "")
    tests: dict[str, Callable[[list[float]], bool]] = {
        "all models right": lambda scores: min(scores) > 0,
        "all models wrong": lambda scores: max(scores) == 0,
        "some right, some wrong": lambda scores: min(scores) == 0 < max(scores),
    }
    for value, test in tests.items():
        browser.choose("agreement", value)
        assert shown() == sum(test(question["scores"]) for question in everything)
    browser.choose("agreement", "any")
    browser.find("[...document.querySelectorAll('#filters button')].at(-1).click()")
    assert "page 2 of 8" in browser.find("document.getElementById('count').textContent")


def check_sorting(browser: Page) -> None:
    """A click on a column's head sorts its table by number."""
    table = "document.querySelector('table[data-name=results]')"
    rows = f"[...{table}.tBodies[0].rows].map(row => parseFloat(row.cells[3].textContent))"
    assert browser.find(rows) == sorted(browser.find(rows), reverse=True)
    browser.find(f"{table}.querySelectorAll('th')[3].click()")
    assert browser.find(rows) == sorted(browser.find(rows))


def test_a_mean_over_the_sets_of_vqa_vs_is_found_again_from_its_questions(tmp_path: Path):
    """The sets overlap and differ in size; the mean over nine is the same from single questions as from the results."""
    root = tmp_path / "vs"
    write_scenes_vs(root, 0, ShortcutConstants(train_questions=400, val_questions=40, test_questions=120))
    data_set = make_data_set("vqavs")
    asked = data_set.read(root, "iid", "third").annotations
    truth = [asked.multiple_choice_answer[row] for row in range(len(asked))]
    said = [answer if row % 3 else "no idea" for row, answer in enumerate(truth)]
    rows = [{"question_id": int(i), "answer": answer} for i, answer in zip(asked.question_id, said, strict=True)]
    records = read_json(root / "IID-Test" / "IID-Test-Ans.json")
    subsets = data_set.read_subsets(root, "iid", asked.question_id)
    scores = vqa_vs_scores(rows, records["annotations"] if isinstance(records, dict) else records, subsets)
    run = Run(tmp_path / "scenes-vs" / "lxmert" / "r" / "seed0")
    run.config.parent.mkdir(parents=True)
    run.config.write_text(f"data: {{layout: vqavs, root: {root}}}\n")
    write_json(run.predictions("iid"), rows)
    splits = {name: {"all": score, "distribution": "ood"} for name, score in scores["ood"].items()}
    right = 100 * sum(a == b for a, b in zip(said, truth, strict=True)) / len(truth)
    results = {"splits": {"iid": {"all": right, "distribution": "id"}, **splits}, "means": {}}
    kept = QuestionScores.unpack(scores_of(run, results)["iid"])
    line = {"results": results, "settings": {"data.layout": "vqavs"}}
    for mean in ("ood_mean", "ood_lang", "ood_vis", "ood_crsm"):
        groups = groups_of(line, "iid", kept, mean)
        assert np.mean([100 * kept.thirds[mask].mean() / 3 for mask in groups]) == pytest.approx(scores[mean], abs=0.01)
    assert len(groups_of(line, "iid", kept, "ood")) == 9 and groups_of(line, "iid", kept, "id")[0].all()
