"""`cdvqa report`: the table of runs, and what is written of it."""

import re
from pathlib import Path

import orjson
import pandas as pd
import pytest
from PIL import Image

from cdvqa.cli import main
from cdvqa.errors import InputError
from cdvqa.runs.folder import Run
from cdvqa.studies.report.convergence import convergence
from cdvqa.studies.report.published import NO_CODE, NOT_RUN, TABLES, beside_published
from cdvqa.studies.report.table import read_logs, runs_table, select
from cdvqa.studies.report.tables import Table, accuracy_by_set, results, selection
from cdvqa.studies.sweep.plan import jobs_of
from cdvqa.studies.sweep.study import read_study
from tests.studies.made_up import first, line, make_run, pruned, scored


def table_of(logs: Path) -> pd.DataFrame:
    return runs_table(read_logs(logs)[0])[0]


def test_report_without_runs_says_what_makes_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["report", "--logs", str(tmp_path)]) == 2
    assert "no run here; `cdvqa fit --config" in capsys.readouterr().err
    assert main(["report", "--records", str(tmp_path / "none.jsonl")]) == 2
    assert "none.jsonl: no such file" in capsys.readouterr().err
    assert main(["report", "--size", "micro"]) == 2
    assert "--size is of a study" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    make_run(tmp_path / "logs", "r", results=scored(40))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "runs.csv").write_text("mine")
    command = ["report", "--logs", str(tmp_path / "logs"), "--output"]
    assert main([*command, str(tmp_path / "mine")]) == 2
    assert "mine: holds other files, and no report; name a new folder" in capsys.readouterr().err
    assert [path.read_text() for path in (tmp_path / "mine").iterdir()] == ["mine"]
    for _ in range(2):  # an earlier report is replaced
        assert main([*command, str(tmp_path / "new")]) == 0


def test_seeds_share_a_row_with_their_mean(tmp_path: Path):
    """Guards: seeds whose kept counts differ are one run."""
    for seed, (accuracy, kept) in enumerate([(40, 51), (50, 52), (60, 53)]):
        parameters = {"full": 100, "kept": kept}
        make_run(tmp_path, "r", seed, scored(accuracy), parameters=parameters)
    (row,) = results(table_of(tmp_path)).to_dict("records")
    assert row["kept"] == "52.0 %" and row["seeds"] == "3" and row["out of distribution"] == "50.00 ± 10.00"


def test_what_is_out_of_distribution_is_the_data_sets_own_statement(tmp_path: Path):
    """Guards: the test split of VQA v2 is in distribution; several OOD splits count by the data set's mean."""
    make_run(tmp_path, "vqa2", results=scored(70, distribution="id"))
    make_run(tmp_path, "vqavs", results=scored(30, "QT", means={"ood_mean": 20.0}))
    runs = table_of(tmp_path).set_index("run")
    assert runs.loc["vqa2", "id"] == 70 and pd.isna(runs.loc["vqa2", "ood"])
    assert runs.loc["vqavs", "ood"] == 20


def test_every_test_set_and_mean_has_a_column(tmp_path: Path):
    sets = {name: {"all": 10.0 * i, "distribution": "ood"} for i, name in enumerate(("QT", "KW", "KO"))}
    make_run(tmp_path, "r", results=scored(0) | {"splits": sets, "means": {"ood_mean": 10.0, "ood_lang": 5.0}})
    (row,) = accuracy_by_set(table_of(tmp_path)).to_dict("records")
    assert row["KW"] == "10.00" and row["KO"] == "20.00" and row["ood_lang"] == "5.00"


def test_answer_types_are_columns_in_the_order_of_the_results():
    """Defect: their order in runs.csv changed from one process to the next."""
    columns = runs_table([line("bce")])[0].columns
    assert [name for name in columns if name in ("number", "yes/no")] == ["yes/no", "number"]


def test_a_curve_holds_runs_that_differ_in_the_overall_sparsity_alone(tmp_path: Path):
    """Guards: other shares, scores, rates or parents make another curve."""
    make_run(tmp_path, "full", results=scored(1))
    make_run(tmp_path, "slow", results=scored(1), settings={"model.lr": 1e-4})
    make_run(tmp_path, "s50", results=scored(1), **pruned(0.5))
    make_run(tmp_path, "s70", results=scored(1), **pruned(0.7))
    make_run(tmp_path, "s70-weight", results=scored(1), **pruned(0.7, scores="weight"))
    make_run(tmp_path, "L60", results=scored(1), **pruned(0.5, assignment="modality", language=0.6))
    make_run(tmp_path, "L40", results=scored(1), **pruned(0.5, assignment="modality", language=0.4))
    for parent in ("s50", "s70", "s70-weight"):
        own = pruned(float(parent[1:3]) / 100) | {"stage": 3, "pipeline": ["bce", "lmh", "bce"]}
        own["settings"] = {"parent": {"identity": parent}}
        make_run(tmp_path, f"further-{parent}", results=scored(1), **own)
    curve = table_of(tmp_path).set_index("run")["curve"]
    assert curve["full"] == "full b(bce), lr 0.001" and curve["slow"] == "full b(bce), lr 0.0001"
    assert curve["s50"] == curve["s70"] == "b(bce) + mask train(lmh)"
    assert curve["s70-weight"] == "b(bce) + mask train(lmh), sparsity.scores weight"
    assert curve["L60"] == "b(bce) + mask train(lmh), modality, language 60 %" != curve["L40"]
    assert curve["further-s50"] == curve["further-s70"] != curve["further-s70-weight"]


def test_one_assignment_at_each_sparsity_is_one_curve():
    """Fig. 9: the best shares are others at every sparsity."""
    shares = {0.5: {"language": 0.6, "vision": 0.2}, 0.7: {"language": 0.75, "vision": 0.5}}
    lines = [line("lmh+lmh", 0, None, zeros, plan={"assignment": "modality", **own}) for zeros, own in shares.items()]
    assert set(runs_table(lines)[0]["curve"]) == {"lxmert(lmh) + mask train(lmh), modality"}


def test_a_module_that_alone_is_pruned_gives_the_sparsity():
    alone = {"assignment": "modality", "language": 0.5, "vision": 0.0, "cross": 0.0}
    (row,) = runs_table([line("bce+lmh", 0, None, 0.21, plan=alone)])[0].to_dict("records")
    assert row["module"] == "language" and row["sparsity"] == 0.5 and row["overall"] == 0.21
    assert row["curve"] == "lxmert(bce) + mask train(lmh), language alone"


def test_filters_take_columns_settings_and_lists():
    runs = runs_table([line("bce"), line("bce+lmh", 0, None, 0.5), line("lmh+lmh", 0, None, 0.69999)])[0]
    assert list(select(runs, {"method": "mask", "sparsity": 0.7})["pipeline"]) == ["lmh+lmh"]
    assert len(select(runs, {"pipeline": ["bce", "bce+lmh"]})) == 2
    assert len(select(runs, {"data.layout": "vqacp"})) == 3 and select(runs, {"model.lr": 1, "stage": 1}).empty
    with pytest.raises(InputError, match="objective: no column of the table of runs; there are data, backbone"):
        select(runs, {"objective": "bce"})


def test_forty_curves_are_drawn(tmp_path: Path):
    """Guards: the figure needs no colour of its own for each curve."""
    for number in range(40):
        make_run(tmp_path, f"r{number}", results=scored(number), settings={"model.lr": number})
    assert main(["report", "--logs", str(tmp_path)]) == 0
    with Image.open(tmp_path / "report" / "figures" / "accuracy_d_b.png") as picture:
        assert picture.width > 800 and len(picture.convert("RGB").getcolors(1 << 24) or []) > 50


def test_report_names_what_is_untested_and_what_is_broken(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Guards: one bad file does not break the report of all runs, and no run is left out without a word."""
    make_run(tmp_path, "good", results=scored(40))
    make_run(tmp_path, "untested")
    make_run(tmp_path, "interrupted", finished=None, parameters=None)
    make_run(tmp_path, "cut", results=scored(1)).record.write_text('{"stage": 1,')
    make_run(tmp_path, "odd", results={"splits": [1]})
    make_run(tmp_path, "other", results=scored(1), parameters={"full": 100})
    assert main(["report", "--logs", str(tmp_path)]) == 0
    output = tmp_path / "report"
    printed = capsys.readouterr().out
    for text in (printed, (output / "report.md").read_text(), (output / "report.html").read_text()):
        assert "Not tested: d b untested seed0." in text and "Not finished: d b interrupted seed0." in text
        assert "cut/seed0/run.json: cannot be read" in text
        assert "odd/seed0/results.json: splits: unexpected [1]" in text and "d b other 0: a broken record" in text
    written = (output / "tables" / "results.csv").read_text()
    assert "good" in written and "cut" not in written


def test_report_lists_runs_and_the_settings_in_which_they_differ(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    make_run(tmp_path, "a", 0, scored(40))
    make_run(tmp_path, "a", 1)
    make_run(tmp_path, "b", settings={"model.lr": 1e-4})
    assert main(["report", "--logs", str(tmp_path), "--runs"]) == 0
    a, b = (re.sub(" +", " ", line) for line in capsys.readouterr().out.splitlines()[2:])
    assert a == "| d | b | a | 1 not tested; 0 tested | lr 0.001 |"
    assert b == "| d | b | b | 0 not tested | lr 0.0001 |"
    assert not (tmp_path / "report").exists()


def test_an_inherited_selection_is_said():
    """A stage 2 that keeps its last state, on a stage 1 that was selected on test."""
    parent = line("bce", selection="test", settings={"model.selection": "test"})
    child = line("bce+lmh", 0, None, 0.5, settings={"model.selection": "last"})
    for one in (parent, child):
        one["results"]["selection"] = "test"
    rows = selection(runs_table([parent, child])[0]).set_index("run")
    assert list(rows["result"]) == ["selected on test"] * 2
    assert list(rows["own selection"]) == ["test", "last"] and list(rows["inherited"]) == ["no", "yes"]


def test_ours_stand_beside_the_papers_rows():
    lines = [line("bce", seed, first(200 + 20 * seed)) for seed in range(2)]
    lines.append(line("lpf+lmh", 0, None, 0.5, plan={"assignment": "modality"}))
    for seed, base in enumerate(("bce", "lmh")):  # the row is MMBS over LMH
        lines.append(line("mmbs", seed, None, settings={"model.objective_options.base": base}, backbone="updn"))
    rows = beside_published(runs_table(lines)[0], TABLES["vqacp"]).set_index(["method", "backbone"])
    bce, half = rows.loc[("BCE", "full lxmert")], rows.loc[("lpf+lmh (Ours)", "50% lxmert")]
    assert bce["All"] == "48.01" and bce["our All"] == "52.50 ± 3.54" and bce["our Y/N"] == "100.00 ± 0.00"
    assert bce["our params"] == "1.00M" and bce["seeds"] == "2" and bce["selected on"] == "dev"
    assert half["our params"] == "0.50M" and half["Num"] == "63.71"
    assert rows.loc[("LMH", "full lxmert"), "our All"] == NOT_RUN
    assert rows.loc[("LMH+MMBS (Si et al., 2022a)", "UpDn"), "seeds"] == "1"
    assert rows.loc[("CGE (Han et al., 2021)", "UpDn"), "our All"] == NOT_RUN
    assert rows.loc[("DLR (Jing et al., 2020)", "UpDn"), "our All"] == NO_CODE


@pytest.mark.parametrize(("layout", "rows"), [("vqacp", 25), ("vqavs", 19)])
def test_published_numbers_are_the_papers(shared: Path, layout: str, rows: int):
    paper = (shared / "paper.md").read_text().splitlines()
    table = TABLES[layout]
    assert len(table.rows) == rows
    for row in table.rows:
        numbers = ["-" if score is None else f"{score:.2f}" for score in row.scores]
        found = [text.split("\t") for text in paper if text.startswith(row.method.split(" (Liang")[0])]
        assert any(cells[1:] == [row.backbone, row.parameters, *numbers] for cells in found), row


def test_tables_are_written_as_markdown_latex_and_csv(tmp_path: Path):
    frame = pd.DataFrame([{"run": "a_b & 50 %", "out of distribution": "1.00 ± 0.10"}])
    Table("t", "T", frame).write(tmp_path)
    latex = (tmp_path / "t.tex").read_text()
    assert r"a\_b \& 50 \%" in latex and r"1.00 $\pm$ 0.10" in latex and r"\toprule" in latex
    assert "a_b & 50 %,1.00 ± 0.10" in (tmp_path / "t.csv").read_text()
    assert "| a_b & 50 % | 1.00 ± 0.10" in (tmp_path / "t.md").read_text()


def test_two_thousand_runs_are_tabulated():
    lines = [
        line(f"{stage1}+{stage2}", seed, None, zeros / 100)
        for stage1 in ("bce", "lmh", "lpf", "rubi", "ce")
        for stage2 in ("bce", "lmh", "lpf", "rubi")
        for zeros in range(0, 100, 4)
        for seed in range(4)
    ]
    runs, problems = runs_table(lines)
    assert len(runs) == 2000 and runs["curve"].nunique() == 20 and not problems


STUDY = """
data: scenes
backbone: lxmert
seeds: 1
runs:
  - {method: full, pipeline: [bce, lmh]}
claims:
  - {text: LMH beats BCE, better: {pipeline: lmh}, worse: {pipeline: bce}}
about: two full models
"""


def test_a_study_has_its_own_runs_and_says_which_are_missing(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    Path("data/scenes").symlink_to(scenes)
    (tmp_path / "mine.yaml").write_text(STUDY)
    jobs = {job.run.folder.parent.name[7:10]: job for job in jobs_of(read_study("mine.yaml").points, Path("logs"))}
    bce = line("bce", 0, first(100), identity=jobs["bce"].identity)
    other = line("lpf", 0, first(400))
    records = tmp_path / "mine.jsonl"
    records.write_bytes(b"".join(orjson.dumps(one) + b"\n" for one in (bce, other)))
    assert main(["report", "--study", "mine.yaml"]) == 2
    assert "logs: no run of mine here; `cdvqa sweep mine.yaml` makes them" in capsys.readouterr().err
    command = ["report", "--study", "mine.yaml", "--records", str(records)]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "Not run: 1 of 2 runs of the study: scenes lxmert stage1_lmh-" in printed
    assert re.search(r"\| LMH beats BCE .* not run +\|", printed)
    assert "lpf" not in (tmp_path / "logs/report/mine/tables/results.csv").read_text()
    lmh = line("lmh", 0, first(300), identity=jobs["lmh"].identity)
    records.write_bytes(b"".join(orjson.dumps(one) + b"\n" for one in (bce, other, lmh)))
    assert main([*command, "--output", "there"]) == 0
    assert re.search(r"\| LMH beats BCE .*\+50\.00 .*\| holds +\| one seed +\|", capsys.readouterr().out)
    text = (tmp_path / "there" / "report.md").read_text()
    # Without the world the identities are not known, but the records are there.
    Path("data/scenes").unlink()
    (tmp_path / "mine.yaml").write_text(f"{STUDY}settings: {{model.warmup: 0.5}}\n")  # an identity not asked for yet
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "All records of mine are shown, as its runs cannot be planned here (" in printed
    assert "lpf" in (tmp_path / "logs/report/mine/tables/results.csv").read_text()
    assert re.search(r"\| LMH beats BCE .*\+50\.00 .*\| holds", printed)
    other_name = records.rename(tmp_path / "other.jsonl")
    assert main(["report", "--study", "mine.yaml", "--records", str(other_name)]) == 2
    assert "data/scenes/lxmert: no such folder" in capsys.readouterr().err
    other_name.rename(records)
    Path("data/scenes").symlink_to(scenes)
    (tmp_path / "mine.yaml").write_text(f"{STUDY}figure: {{on: nothing}}\n")
    assert main(command) == 0
    assert "The figure of mine is not here" in capsys.readouterr().out
    (tmp_path / "mine.yaml").write_text(f"{STUDY}figure: curves\n")
    assert main(command) == 2
    assert "figure: expected a mapping, not 'curves'" in capsys.readouterr().err
    assert "two full models" in text and "## Verdicts" in text and "Not run" not in text


def test_several_studies_make_one_report_with_the_verdicts_of_all(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    Path("data/scenes").symlink_to(scenes)
    Path("first.yaml").write_text(f"{STUDY}figure: {{kind: curves}}\n")
    third = STUDY.replace("bce, lmh", "bce, lpf").replace("lmh", "lpf").replace("LMH", "LPF")
    Path("second.yaml").write_text(f"{third}figure: {{kind: front}}\n")
    command = ["report", "--study", "[first.yaml,second.yaml,first.yaml]", "--records", "records", "--output", "there"]
    Path("records").mkdir()
    assert main(command) == 2 and "no records of a study in it; `cdvqa sweep`" in capsys.readouterr().err
    for file, better in (("first", 300), ("second", 50)):
        jobs = jobs_of(read_study(f"{file}.yaml").points, Path("logs"))
        names = {job.run.folder.parent.name[7:10]: job.identity for job in jobs}
        lines = [
            line(name, 0, first(100 if name == "bce" else better), identity=identity)
            for name, identity in names.items()
        ]
        Path(f"records/{file}.jsonl").write_bytes(b"".join(orjson.dumps(one) + b"\n" for one in lines))
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert len(re.findall(r"\| LMH beats BCE .*\+50\.00 .*\| first +\|", printed)) == 1, "named twice, judged once"
    assert re.search(r"\| LPF beats BCE .*-12\.50 .*\| second +\|", printed)
    text = Path("there/report.md").read_text()
    assert "# Studies first, second" in text and "first_scenes_lxmert.png" in text and "second_scenes.png" in text
    assert len(Path("there/runs.csv").read_text().splitlines()) == 1 + 3  # BCE is a run of both


@pytest.mark.parametrize(
    ("losses", "accuracies", "converged"),
    [
        ([9, 8, 7, 6, 5, 4, 3, 2.5, 2.00, 1.98], [50] * 8 + [50.2, 50.6], True),
        ([9, 8, 7, 6, 5, 4, 3, 2.0, 2.00, 1.95], [50] * 10, False),
        ([9, 8, 7, 6, 5, 4, 3, 2.0, 2.0, 2.0], [50] * 8 + [50.4, 49.8], False),
        ([9, 8, 7, 6, 5, 4, 3], [50] * 7, False),  # the last of seven epochs was compared with itself
    ],
)
def test_convergence_is_judged_on_the_last_fifth_of_the_mean_curves(
    tmp_path: Path, losses: list[float], accuracies: list[float], converged: bool
):
    for seed, shift in (("a", 0.5), ("b", -0.5)):
        lines = ["step,metric,value"]
        for epoch, (loss, accuracy) in enumerate(zip(losses, accuracies, strict=True)):
            lines += [f"{epoch},val/accuracy/all,{accuracy + shift}", f"{epoch},train/loss/epoch,{loss + shift}"]
        (tmp_path / seed).mkdir()
        (tmp_path / seed / "metrics.csv").write_text("\n".join(lines) + "\n")
    assert convergence([Run(tmp_path / "a"), Run(tmp_path / "b")]).converged is converged
