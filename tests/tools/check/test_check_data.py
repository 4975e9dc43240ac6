"""Questions and answers: plain, packed, or cached by others."""

import gzip
import hashlib
import json
import re
import zipfile

import pytest

from cdvqa.data.datasets.vqavs import OOD_SETS
from tests.data.answers.test_cached_targets import replace_annotations
from tests.data.toy import dump, split
from tests.tools.check.table import row


@pytest.mark.parametrize("file", ["vqacp_v2_train_questions.json", "vqacp_v2_test_annotations.json", "features.h5"])
def test_a_file_cut_short_is_unusable(check, world, file):
    whole = (world / file).read_bytes()
    (world / file).write_bytes(whole[: len(whole) // 2])
    status, output = check()
    assert status == 1
    line = next(line for line in output.splitlines() if line.rstrip().endswith(str(world / file)))
    what = re.split(r"\s{2,}", line)[0]
    assert "unusable" in line and re.search(rf"\nWRONG {what}: (not valid JSON|not a readable HDF5 file) ", output)


def test_another_number_of_answers(check):
    status, output = check(**{"data.num_answers": 7})
    assert status == 1
    assert "its train split has 6 answers, not 7" in output
    assert "set --data.num_answers 6" in output


def test_an_empty_vocabulary(check):
    """The remedy was --data.num_answers 0."""
    status, output = check(**{"data.min_count": 1000})
    assert status == 1 and "WRONG train has no answers with at least 1000 questions; lower --data.min_count" in output


def test_vqa_vs_lists_its_ood_sets_and_finds_questions_of_no_split(check, world):
    for folder, first_id in (("Training", 0), ("Val", 1000), ("IID-Test", 2000)):
        questions, annotations = split(60, first_id)
        dump(world / folder / f"{folder}-Ques.json", questions)
        dump(world / folder / f"{folder}-Ans.json", annotations)
    for name in OOD_SETS[1:]:
        dump(world / "OOD-Test" / name / f"OOD-Test-{name}-Ques.json", [{"question_id": 2001}, {"question_id": 2002}])
    dump(world / "OOD-Test" / "KO" / "OOD-Test-KO-Ques.json", [{"question_id": 2001}, {"question_id": 7}])
    status, output = check(**{"data.layout": "vqavs"})
    assert status == 1
    assert row(output, "QT questions")[1] == "missing"
    assert "ok    KW+KO questions: 2 questions\n" in output
    assert "WRONG KO questions: question 7 is not in iid (1 such questions)" in output
    assert output.endswith("\nproblems: 2\n")


def test_packed_files_are_found_and_their_digest_is_of_what_is_in_them(check, world):
    plain = {path.name: path.read_bytes() for path in world.glob("*_train_*.json")}
    questions, annotations = "vqacp_v2_train_questions.json", "vqacp_v2_train_annotations.json"
    (world / f"{questions}.gz").write_bytes(gzip.compress(plain[questions]))
    with zipfile.ZipFile(world / "download.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(world / annotations, f"folder/{annotations}")
    for name in plain:
        (world / name).unlink()
    status, output = check()
    assert status == 0
    for what, where, content in (
        ("train questions", world / f"{questions}.gz", plain[questions]),
        ("train annotations", world / "download.zip" / "folder" / annotations, plain[annotations]),
    ):
        size, digest = f"{len(content) / 1000:.1f} kB", hashlib.sha256(content).hexdigest()[:12]
        assert row(output, what)[1:] == ["ok", size, digest, str(where)]


def test_damaged_archives(check, world):
    packed = gzip.compress((world / "vqacp_v2_train_questions.json").read_bytes())
    (world / "vqacp_v2_train_questions.json.gz").write_bytes(packed[: len(packed) // 2])
    (world / "vqacp_v2_train_questions.json").unlink()
    status, output = check()
    assert status == 1 and row(output, "train questions")[1] == "unusable"
    assert "WRONG train questions: the archive is damaged" in output
    (world / "download.zip").write_bytes(b"PK cut off")
    (world / "vqacp_v2_test_questions.json").unlink()
    status, output = check()
    assert f"WRONG {world / 'download.zip'}: no readable zip archive; fetch it again" in output
    assert status == 1 and output.endswith("\nproblems: 3\n")


def test_a_duplicate_question(check, world):
    path = world / "vqacp_v2_test_questions.json"
    questions = json.loads(path.read_bytes())
    dump(path, [*questions, questions[3]])
    status, output = check()
    assert status == 1 and row(output, "test questions")[1] == "unusable"
    number = questions[3]["question_id"]
    assert f"WRONG test questions: duplicate question {number}; remove one of the two records" in output


def test_cached_targets_in_the_place_of_annotations(check, world):
    answers = replace_annotations(world)
    options = {"data.num_answers": len(answers)}
    status, output = check(**options)
    assert status == 0 and f"ok    train has {len(answers)} answers, as data.num_answers says" in output
    target = world / "cache" / "train_target.pkl"
    assert row(output, "train targets")[-2:] == [hashlib.sha256(target.read_bytes()).hexdigest()[:12], str(target)]
    assert row(output, "train answers")[1] == "ok" and "train annotations" not in output
    assert "note  train: cached targets stand in for the annotations; official accuracy will be a lower b" in output
    next((world / "cache").glob("*2label.pkl")).unlink()
    for path in (world / "cache").glob("*label2ans.pkl"):
        path.unlink()
    status, output = check(**options)
    assert status == 1 and row(output, "train annotations")[1] == "unusable"
    assert "no vocabulary beside it; add the trainval_ans2label.pkl" in output


def test_cached_targets_that_the_objective_cannot_use(check, world):
    options = {"data.num_answers": len(replace_annotations(world, typed=False))}
    status, output = check(**options)
    assert status == 1 and "they name no question types, which --model.objective lmh needs" in output
    assert check("stage1_bce.yaml", **options)[0] == 0
