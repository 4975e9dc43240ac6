"""The benchmark of the data path at a tiny size: its programs run, agree with their baselines, and record all of it."""

import zipfile
from contextlib import nullcontext
from types import SimpleNamespace

import orjson
import pytest

from benchmarks import data, data_conversion, data_questions, data_reading, data_step, record
from tests.data.toy import PIECES, split
from tests.forking import SERVER


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    for module in (data_conversion, data_reading):
        monkeypatch.setattr(module, "REGIONS", 3)
        monkeypatch.setattr(module, "WIDTH", 8)
    monkeypatch.setattr(data_reading, "BATCH", 4)
    monkeypatch.setattr(data_reading, "ANSWERS", 20)
    monkeypatch.setattr(data_reading, "TYPES", 1)


def judged(records):
    """Names of the records that have a goal; each has a positive figure and what it is set against."""
    assert all(record.ours > 0 for record in records)
    assert all(record.ratio is not None and record.ratio > 0 for record in records if record.against == "limit")
    assert all(record.met is not None for record in records if record.goal)
    return {record.name for record in records if record.goal}


def test_conversion(tmp_path):
    records = data_conversion.measure(tmp_path, images=6, repeats=1)
    assert judged(records) == {
        "TSV to fp32, CPU beside the bare bytes",
        "TSV to fp32, speed beside the usual script",
        "TSV to fp32, peak memory",
        "TSV to fp32, peak memory with twice the images",
    }
    assert {"TSV to fp16, CPU beside the bare bytes", "TSV to fp32, beside copying the file"} < {
        record.name for record in records
    }
    peaks = {record.ours for record in records if "peak" in record.name}
    assert len(peaks) == 1 and 0.01 < peaks.pop() < 1  # GB: more than Python itself, less than the goal


def test_usual_script_and_command_that_disagree_are_found_out(tmp_path):
    tsv, ours, usual = tmp_path / "all.tsv", tmp_path / "ours.h5", tmp_path / "usual.h5"
    data_conversion.write_tsv(tsv, 2)
    data_conversion.convert(tsv, ours, "--dtype=float16")
    data_conversion.usual_script(tsv, usual, 2)
    with pytest.raises(AssertionError, match="not equal"):
        data_conversion.check_same(ours, usual)


def test_reading(tmp_path):
    records = data_reading.measure(tmp_path, images=13, batches=2, repeats=1)
    names = ("random reads, {}", "random reads, {}, beside h5py over chunks")
    names += ("loader, {}, in process", "loader, {}, 2 workers")
    assert judged(records) == {name.format(dtype) for dtype in ("fp32", "fp16") for name in names}
    assert not list(tmp_path.iterdir())


def test_step(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(data_step, "arm", lambda kind: nullcontext(lambda *what: asked.append((kind, what))))
    share, speed = data_step.measure(tmp_path, images=13, repeats=2)
    assert judged([share, speed]) == {share.name, speed.name}
    assert speed.ours == pytest.approx(8 / share.ours)
    assert asked == [("dense", (8, 1))] * 3  # one to warm up


def test_questions(tmp_path, monkeypatch):
    monkeypatch.setattr(data_questions, "get_context", lambda method: SERVER)
    records = data_questions.measure(tmp_path / "root", archive=write_archive(tmp_path), copies=3, repeats=1)
    first, cached, tokenising = records
    assert (first.name, first.goal) == ("120 questions from JSON to tensors", "<= 30")
    assert (cached.name, cached.goal) == ("120 questions from the cache to tensors", "<= 2")
    assert first.limit and cached.limit and tokenising.baseline and not tokenising.goal
    ids = [
        record["question_id"]
        for record in orjson.loads((tmp_path / "root" / data_questions.FILES["Ques"]).read_bytes())
    ]
    assert len(set(ids)) == 120


def test_questions_are_left_out_without_the_real_file(tmp_path, capsys):
    assert data_questions.measure(tmp_path, archive=tmp_path / "none.zip") == []
    assert "left out" in capsys.readouterr().out


def test_one_file_for_all_topics(tmp_path, monkeypatch):
    folders = []

    def measure(folder):
        folders.append(folder)
        (folder / "left over").touch()
        return [record.Record(f"figure {len(folders)}", 2.0, "s", 4.0, 1.0, "limit", "<= 3")]

    monkeypatch.setattr(record, "FOLDER", tmp_path)
    monkeypatch.setattr(data, "one_thread", lambda: None)
    monkeypatch.setattr(data, "TOPICS", [SimpleNamespace(measure=measure, NOTE=note) for note in ("One.", "Two.")])
    data.main()
    written = orjson.loads((tmp_path / "data.json").read_bytes())
    assert written["note"] == "One. Two." and written["machine"] and written["versions"]
    figures = {"ours": 2, "baseline": 4, "limit": 1, "ratio": 2, "goal": "<= 3", "met": True}
    for number, row in enumerate(written["records"], 1):
        assert row["name"] == f"figure {number}" and figures.items() <= row.items()
    assert len(set(folders)) == 2 and not any(folder.exists() for folder in folders)


def write_archive(folder):
    """40 questions in the place of the real archive, with a vocabulary beside it."""
    questions, annotations = split(40, 1000)
    (folder / "root").mkdir()
    (folder / "bert_base_uncased_vocab.txt").write_text("\n".join(PIECES) + "\n")
    with zipfile.ZipFile(folder / "val.zip", "w") as archive:
        archive.writestr("Val/Val-Ques.json", orjson.dumps(questions))
        archive.writestr("Val/Val-Ans.json", orjson.dumps(annotations))
    return folder / "val.zip"
