"""`cdvqa compare` says what two networks share and where they differ, and its numbers can be counted again."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from cdvqa.cli import main
from cdvqa.metrics import vqa_accuracy, vqa_score
from cdvqa.sparsity import Subnetwork
from tests.conftest import CONF, overlay, the_run

SHORT = ["--trainer.max_epochs=1"]
MODALITIES = {  # by what the names of their matrices hold
    "language": r"\.embeddings\.|\.encoder\.layer\.",
    "vision": r"\.visn_fc\.|\.r_layers\.",
    "cross": r"\.x_layers\.",
    "pooler": r"\.pooler\.",
}


@pytest.fixture(scope="module")
def folder(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working folder with a full model and two tested subnetworks of other objectives and sparsities."""
    folder, before = tmp_path_factory.mktemp("compare"), Path.cwd()
    os.chdir(folder)
    try:
        world, masks = [*overlay(scenes), *SHORT], ["--config", str(CONF / "tiny_masks.yaml")]
        for config, *options in (
            ["stage1_bce.yaml"],
            ["stage2_bce.yaml", *masks, "--model.sparsity.overall=0.5", "--model.parent_objective=bce"],
            ["stage2_lmh.yaml", *masks, "--model.sparsity.overall=0.9", "--model.parent_objective=bce"],
        ):
            args = ["--config", config, *world, *options]
            assert main(["fit", *args]) == 0 and main(["test", *args]) == 0
        yield folder
    finally:
        os.chdir(before)


@pytest.fixture
def runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The full model, the subnetwork by bce and that by lmh."""
    monkeypatch.chdir(folder)
    names = ("stage1_bce", "stage2_bce+bce_mask_uniform_s50", "stage2_bce+lmh_mask_uniform_s90")
    return [folder / the_run(name) for name in names]


def copy(run: Path, to: Path, **changed: str) -> Path:
    """A copy of a run whose config has other values of these fields of `data`."""
    shutil.copytree(run, to)
    config = (to / "config.yaml").read_text()
    for field, value in changed.items():
        config, number = re.subn(rf"^  {field}: .*$", f"  {field}: {value}", config, flags=re.MULTILINE)
        assert number == 1
    (to / "config.yaml").write_text(config)
    return to


def compared(a: Path, b: Path, *options: str) -> dict[str, Any]:
    """The JSON of a comparison."""
    assert main(["compare", str(a), str(b), "--json=found.json", *options]) == 0
    content = Path("found.json").read_text()
    Path("found.json").unlink()
    return json.loads(content)


def said(run: Path, split: str) -> dict[int, str]:
    return {row["question_id"]: row["answer"] for row in json.loads((run / f"predictions/{split}.json").read_text())}


def records(scenes: Path, split: str, kind: str) -> list[dict]:
    found = json.loads((scenes / f"vqacp_v2_{split}_{kind}.json").read_text())
    return found[kind] if isinstance(found, dict) else found


def zeros_of(run: Path) -> dict[str, np.ndarray]:
    """Where the zeros of each modality are, (weights,) bool, from the tensors alone: no kept weight is exactly 0."""
    network = Subnetwork.load(run / "subnetwork.safetensors")
    return {
        modality: np.concatenate([(network.state[n] == 0).numpy().ravel() for n in network.masks if re.search(part, n)])
        for modality, part in MODALITIES.items()
    }


def test_the_overlap_of_masks_is_as_counted(runs):
    _, a, b = runs
    with safe_open(b / "subnetwork.safetensors", "numpy") as file:
        assert json.loads(file.metadata()["deflated"]), "some masks are stored as codes, not as bits"
    zeros, others = zeros_of(a), zeros_of(b)
    zeros["all"], others["all"] = (np.concatenate(list(parts.values())) for parts in (zeros, others))
    rows = compared(a, b)["masks"]["rows"]
    assert [row["modality"] for row in rows] == [*MODALITIES, "all"]
    for row in rows:
        one, other = zeros[row["modality"]], others[row["modality"]]
        assert (row["weights"], row["zeros of A"], row["zeros of B"]) == (len(one), one.sum(), other.sum())
        assert (row["share of A"], row["share of B"]) == pytest.approx((0.5, 0.9), abs=0.01)
        assert row["agreement"] == pytest.approx((one == other).mean())
        assert row["Jaccard of kept"] == pytest.approx((~one & ~other).sum() / (~one | ~other).sum())
        assert row["by chance"] == pytest.approx(0.05 / 0.55, abs=0.01)


def test_a_network_without_masks_is_whole(runs):
    full, a, _ = runs
    found = compared(full, a)
    for row in found["masks"]["rows"]:
        zeros = row["zeros of B"] / row["weights"]
        assert row["zeros of A"] == 0 < zeros
        assert (row["agreement"], row["Jaccard of kept"]) == pytest.approx((1 - zeros, 1 - zeros))
    (parent,) = [row["B"] for row in found["settings"]["rows"] if row["setting"] == "parent"]
    assert parent == {"identity": json.loads((full / "run.json").read_text())["identity"][:8]}


def test_accuracies_agreement_and_intervals_are_as_counted(runs, scenes):
    _, a, b = runs
    rows = compared(a, b)["answers"]["rows"]
    assert [row["test set"] for row in rows] == ["id", "test"]
    for row in rows:
        split = row["test set"]
        annotations = records(scenes, split, "annotations")
        both = said(a, split), said(b, split)
        for letter, answers, run in zip("AB", both, (a, b), strict=True):
            pairs = [{"question_id": number, "answer": answer} for number, answer in answers.items()]
            accuracy = row[f"accuracy of {letter}"]
            assert accuracy == pytest.approx(vqa_accuracy(pairs, annotations)["all"])
            assert accuracy == pytest.approx(json.loads((run / "results.json").read_text())["splits"][split]["all"])
        assert row["questions"] == len(annotations)
        equal = [both[0][number] == both[1][number] for number in both[0]]
        assert row["equal answers"] == pytest.approx(sum(equal) / len(equal)) and 0 < sum(equal) < len(equal)
        assert row["difference"] == pytest.approx(row["accuracy of B"] - row["accuracy of A"])
        humans = {one["question_id"]: [answer["answer"] for answer in one["answers"]] for one in annotations}
        differences = [100 * (vqa_score(both[1][n], humans[n]) - vqa_score(both[0][n], humans[n])) for n in humans]
        low, high = row["95 % interval"]
        assert low < row["difference"] < high
        assert high - low == pytest.approx(2 * 1.96 * np.std(differences) / np.sqrt(len(humans)), rel=0.1)
        resampled = np.random.default_rng(5).choice(differences, (4000, len(humans))).mean(1)
        assert np.percentile(resampled, (2.5, 97.5)) == pytest.approx((low, high), abs=0.12 * (high - low))


def test_changed_answers_are_shown_those_whose_score_changes_first(runs, scenes):
    _, a, b = runs
    every = compared(a, b, "--examples=1000")["changed"]["rows"]
    for split in ("id", "test"):
        rows = [row for row in every if row["test split"] == split]
        ours, theirs = said(a, split), said(b, split)
        assert {row["question id"] for row in rows} == {number for number in ours if ours[number] != theirs[number]}
        moves = [row["score of A"] != row["score of B"] for row in rows]
        assert moves == sorted(moves, reverse=True) and any(moves)
        asked = {record["question_id"]: record for record in records(scenes, split, "questions")}
        humans = {
            record["question_id"]: [answer["answer"] for answer in record["answers"]]
            for record in records(scenes, split, "annotations")
        }
        for row in rows:
            number = row["question id"]
            assert (row["question"], row["image id"]) == (asked[number]["question"], asked[number]["image_id"])
            assert (row["answer of A"], row["answer of B"]) == (ours[number], theirs[number])
            assert row["score of A"] == vqa_score(ours[number], humans[number])
            answer, count = re.match(r"(.+?) \((\d+)\)", row["human answers"]).groups()
            assert humans[number].count(answer) == int(count) == max(map(humans[number].count, humans[number]))
    assert compared(a, b, "--examples=2")["changed"]["rows"] == [
        row for split in ("id", "test") for row in [row for row in every if row["test split"] == split][:2]
    ]
    assert compared(a, b, "--examples=0")["changed"]["rows"] == []


def test_settings_parameters_and_bytes(runs):
    _, a, b = runs
    found = compared(a, b)
    settings = {row["setting"]: (row["A"], row["B"]) for row in found["settings"]["rows"]}
    assert settings["model.objective"] == ("bce", "lmh")
    shares = {f"model.sparsity.zeros.{modality}": len(zeros) for modality, zeros in zeros_of(a).items()}
    assert settings.keys() == {"model.objective", *shares}, "parent, seed and all others are the same"
    for name, size in shares.items():
        assert settings[name] == pytest.approx((0.5 * size, 0.9 * size), abs=1)
    for row, run in zip(found["speed"]["rows"], (a, b), strict=True):
        network = Subnetwork.load(run / "subnetwork.safetensors")
        head = sum(value.numel() for name, value in network.state.items() if name.startswith("classifier."))
        masked = sum(mask.numel() for mask in network.masks.values())
        zeros = sum(zeros.sum() for zeros in zeros_of(run).values())
        assert head and 0 <= row["full"] - masked - head < 100  # LMH's own part is in the network too
        assert row["full"] - row["kept"] == zeros
        assert row["bytes"] == (run / "subnetwork.safetensors").stat().st_size
        assert row["ms, batch 1"] > 0 and row["ms, batch 8"] > 0


def test_the_json_file_is_what_is_printed(runs, capsys):
    _, a, b = runs
    capsys.readouterr()
    found = compared(a, b)
    printed = capsys.readouterr().out
    assert not re.search("[0-9a-f]{64}", printed + json.dumps(found))
    sections = printed.split("\n## ")[1:]
    assert len(sections) == len(found) == 6
    for text, content in zip(sections, found.values(), strict=True):
        assert all(note in text for note in content["notes"])
        table = [
            [cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")
        ]
        columns, rows = table[0], table[1:]
        assert [list(row) for row in content["rows"]] == [columns] * len(rows)
        for shown, row in zip(rows, content["rows"], strict=True):
            for cell, value in zip(shown, row.values(), strict=True):
                if isinstance(value, float):
                    digits = len(cell.strip("%").partition(".")[2])
                    number = float(cell.strip("%")) / (100 if cell.endswith("%") else 1)
                    assert abs(number - value) <= 10.0**-digits, (cell, value)
                elif isinstance(value, list):
                    assert cell == " … ".join(f"{end:+.2f}" for end in value)
                elif isinstance(value, int):
                    assert int(cell.replace(",", "")) == value
                else:
                    assert cell == ("-" if value is None else value)


def test_other_seeds_of_a_run_differ_in_the_seed_alone(cdvqa):
    seeds = []
    for seed in (0, 1):
        assert cdvqa("fit", "stage1_bce.yaml", *SHORT, f"--seed_everything={seed}") == 0
        seeds.append(the_run("stage1_bce", seed))
    found = compared(*seeds)
    assert found["settings"]["rows"] == [{"setting": "seed_everything", "A": 0, "B": 1}]
    assert compared(seeds[0], seeds[0])["settings"] == {"rows": [], "notes": ["None."]}
    assert len(found["answers"]["notes"]) == 2
    for run, note in zip(seeds, found["answers"]["notes"], strict=True):
        assert f"has no answers to id, test: `cdvqa test --config {run}/config.yaml`" in note
    assert found["answers"]["rows"] == found["changed"]["rows"] == []
    assert all(row["ms, batch 8"] > 0 for row in found["speed"]["rows"])


def test_other_backbones_are_compared_in_their_answers(cdvqa):
    for world in ([], ["visualbert.yaml"]):
        assert cdvqa("fit", "stage1_bce.yaml", *world, *SHORT) == 0
        assert cdvqa("test", "stage1_bce.yaml", *world, *SHORT) == 0
    found = compared(the_run("stage1_bce"), the_run("stage1_bce", runs="logs/scenes/visualbert"))
    assert found["masks"] == {"rows": [], "notes": ["Not compared: the backbones differ."]}
    assert [row["questions"] for row in found["answers"]["rows"]] == [90, 70]
    assert all(row["ms, batch 1"] > 0 for row in found["speed"]["rows"])


def test_masks_of_a_file_without_unused_parts_are_not_compared(runs, tmp_path):
    _, a, b = runs
    path = tmp_path / "small.safetensors"
    assert main(["export", str(a), f"--output={path}", "--measure=false"]) == 0
    shutil.copy(a / "config.yaml", tmp_path)
    found = compared(path, b)
    assert found["masks"]["rows"] == []
    assert f"not available: {path}: heads, neurons or unused parts were taken out" in found["masks"]["notes"][0]
    assert "is in no run folder: its settings are unknown" in found["settings"]["notes"][0]
    identity = json.loads((a / "run.json").read_text())["identity"]
    assert found["networks"]["rows"][0]["identity"] == identity[:8]
    assert f"`cdvqa test --config {tmp_path}/config.yaml --ckpt_path {path}`" in found["answers"]["notes"][0]
    assert found["speed"]["rows"][0]["kept"] is None and found["speed"]["rows"][0]["ms, batch 1"] > 0


def test_an_exported_file_has_the_settings_of_its_run(runs):
    """It lies two folders below: its settings used to be unknown."""
    _, a, _ = runs
    assert main(["export", str(a), "--dtype=fp16", "--measure=false"]) == 0
    found = compared(a / "export" / "fp16", a)
    assert found["settings"] == {"rows": [], "notes": ["None."]}


def test_without_questions_the_accuracies_are_those_of_the_results(runs, scenes, tmp_path):
    _, a, b = runs
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(scenes / "vocab.txt", tmp_path / "elsewhere")
    moved = copy(a, tmp_path / "moved", root=str(tmp_path / "elsewhere"))
    found, whole = compared(moved, b), compared(a, b)
    for row, expected in zip(found["answers"]["rows"], whole["answers"]["rows"], strict=True):
        assert row["95 % interval"] is None
        assert {**expected, "95 % interval": None} == pytest.approx(row, nan_ok=True)
    assert found["changed"]["rows"] == []
    assert "without interval and single questions" in found["answers"]["notes"][0]
    assert found["speed"]["notes"][1].startswith("Latency is not measured: ")
    assert "ms, batch 1" not in found["speed"]["rows"][0]


def test_what_does_not_fit_together_is_reported(runs, tmp_path):
    _, a, b = runs
    other = copy(b, tmp_path / "other", name="rooms")
    assert compared(a, other)["answers"]["notes"] == ["Not compared: A answers questions of scenes, B of rooms."]
    results = json.loads((b / "results.json").read_text())
    results["splits"]["test"]["all"] += 1
    doubtful = copy(b, tmp_path / "doubtful")
    (doubtful / "results.json").write_text(json.dumps(results))
    (note,) = [note for note in compared(a, doubtful)["answers"]["notes"] if note.startswith("test: ")]
    assert f"results.json of B says {results['splits']['test']['all']:.2f}" in note
    answers = json.loads((b / "predictions" / "test.json").read_text())
    fewer = copy(b, tmp_path / "fewer")
    (fewer / "predictions" / "test.json").write_text(json.dumps(answers[1:]))
    (fewer / "predictions" / "id.json").unlink()
    found = compared(a, fewer)["answers"]
    assert found["rows"] == []
    assert f"B has no answers to id: `cdvqa test --config {fewer}/config.yaml` writes them." in found["notes"]
    assert "test: A and B do not answer the same questions; test both on all of them." in found["notes"]


def test_bad_input_is_refused_in_one_line(runs, tmp_path, capsys):
    _, a, b = runs
    unfinished = copy(b, tmp_path / "unfinished")
    record = json.loads((b / "run.json").read_text())
    (unfinished / "run.json").write_text(json.dumps(record | {"finished": None}))
    broken = copy(b, tmp_path / "broken")
    (broken / "predictions" / "test.json").write_text('[{"question_id": 1}]')
    unread = copy(b, tmp_path / "unread")
    (unread / "results.json").write_text("{")
    for wrong, text in (
        (tmp_path / "missing", f"{tmp_path}/missing: no such run folder or network file"),
        (unfinished, f"{unfinished}: this run is not finished; finish it with --ckpt_path last first"),
        (broken, f"{broken}/predictions/test.json: no list of answers"),
        (unread, f"{unread}/results.json: cannot be read"),
    ):
        capsys.readouterr()
        assert main(["compare", str(a), str(wrong), f"--json={tmp_path}/new.json"]) == 2
        error = capsys.readouterr().err
        assert error.startswith("cdvqa compare: ") and text in error and error.count("\n") == 1
    for option, text in (
        ("--examples=-1", "--examples: expected a number >= 0"),
        (f"--json={tmp_path}", f"--json {tmp_path}: it is there already; name a new file"),
        (f"--json={a / 'run.json'}", "run.json: it is there already; name a new file"),
    ):
        assert main(["compare", str(a), str(b), option]) == 2
        assert text in capsys.readouterr().err
    assert not (tmp_path / "new.json").exists()
