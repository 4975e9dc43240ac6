"""Readers of the official files: what they join, and what they refuse."""

import json
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cdvqa.data.datasets import VQA2, VQAVS
from cdvqa.data.questions.official import read_plain_questions, read_questions
from cdvqa.errors import InputError
from tests.data.toy import dump, record, split


def test_join_is_by_question_id(tmp_path):
    questions, annotations = split(20, 100)
    dump(tmp_path / "q.json", questions)
    dump(tmp_path / "a.json", annotations)
    joined = read_questions(tmp_path / "q.json", tmp_path / "a.json")
    text = {question["question_id"]: question["question"] for question in questions}
    assert joined.question_id.tolist() == [a["question_id"] for a in annotations]
    assert joined.text == [text[a["question_id"]] for a in annotations]
    assert joined.image_id.tolist() == [a["image_id"] for a in annotations]


def test_vqa_v2_wraps_its_lists_in_objects(tmp_path):
    questions, annotations = split(5, 100)
    files = VQA2().splits()["train"]
    dump(tmp_path / files.questions, {"info": {}, "questions": questions})
    dump(tmp_path / files.annotations, {"info": {}, "annotations": annotations})
    assert files.questions == "v2_OpenEnded_mscoco_train2014_questions.json"
    assert len(VQA2().read(tmp_path, "train", "third")) == 5


def test_the_real_vqa_vs_validation_file(shared, tmp_path):
    with zipfile.ZipFile(shared / "data/vqavs_val.zip") as archive:
        for member in ("Val/Val-Ques.json", "Val/Val-Ans.json"):
            archive.extract(member, tmp_path)
    questions = VQAVS().read(tmp_path, "dev", "third")
    annotations = questions.annotations
    assert len(questions) == 32_723 and len(np.unique(questions.image_id)) == 27_265
    assert len(annotations.question_type.names) == 65
    counts = np.bincount(annotations.answer_type.codes)
    expected = {"yes/no": 12_302, "number": 4_251, "other": 16_170}
    assert dict(zip(annotations.answer_type.names, counts, strict=True)) == expected
    assert set(np.diff(annotations.answers.offsets)) == {10}


def broken(part: str, change) -> tuple[list, list]:
    questions, annotations = split(6, 100)
    change(questions if part == "q" else annotations)
    return questions, annotations


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("q", lambda rows: rows.append(rows[0]), "q.json: duplicate question 105"),
        ("a", lambda rows: rows.append(rows[0]), "a.json: duplicate question 100"),
        ("q", lambda rows: rows.pop(), "a.json: question 100 is not in .*q.json"),
        ("a", lambda rows: rows.pop(), "q.json: question 105 is not in .*a.json"),
        ("a", lambda rows: rows[2].update(answers="yes"), r"record 2 \(question 102\): 'answers' must be a list"),
        ("a", lambda rows: rows[2].update(answers=[]), r"record 2 \(question 102\) has an empty list of 'answers'"),
        ("a", lambda rows: rows[4]["answers"].pop(), r"record 4 \(question 104\) has 9 answers, .*over ten; repeat"),
        ("a", lambda rows: rows[0].update(answer="yes", answers=[]), r"question 100\) has an empty list"),
        ("a", lambda rows: rows[1].update(multiple_choice_answer="\ud83d"), r"'multiple_choice_answer' .* half a surr"),
        ("a", lambda rows: rows[1]["answers"][3].update(answer="x\udc00"), r"a.json: 'answers' 'x.* half a surrogate"),
        ("q", lambda rows: rows[1].update(question="\ud83d dog?"), r"q.json: 'question' .* half a surrogate pair"),
        ("q", lambda rows: rows[1].update(image_id=1 << 63), "q.json: a 'image_id' does not fit into 64 bits"),
        ("a", lambda rows: rows[2].update(answers=["yes"]), r"102\): every one of 'answers' must be an object"),
        ("a", lambda rows: rows[3].pop("question_type"), r"a.json: record 3 \(question 103\) has no 'question_type'"),
        ("q", lambda rows: rows[0].update(image_id="12"), r"record 0 \(question 105\): 'image_id' must be an int"),
        ("q", lambda rows: rows.insert(1, 7), "q.json: record 1 is not a JSON object"),
        ("q", lambda rows: rows.clear(), "q.json: holds no questions"),
    ],
)
def test_broken_records_are_named(tmp_path, part, change, message):
    questions, annotations = broken(part, change)
    (tmp_path / "q.json").write_text(json.dumps(questions))
    (tmp_path / "a.json").write_text(json.dumps(annotations))
    with pytest.raises(InputError, match=message):
        read_questions(tmp_path / "q.json", tmp_path / "a.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'[{"question_id": 1', "a.json: not valid JSON"),
        (b'{"questions": []}', "a.json: holds neither a list of annotations nor an object with a list 'annotations'"),
        (b"3", "a.json: holds neither"),
        (b"", "a.json: not valid JSON"),
        (b"[" * 100_000, "a.json: not valid JSON"),
        (b"[" + b"1" * 5000 + b"]", "a.json: not valid JSON .*5000 digits"),
        (None, "a.json: no such file"),
    ],
)
def test_broken_files_are_named(tmp_path, content, message):
    dump(tmp_path / "q.json", split(3, 0)[0])
    if content is not None:
        (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_questions(tmp_path / "q.json", tmp_path / "a.json")


def test_foreign_types_are_taken_as_they_come(tmp_path):
    dump(tmp_path / "q.json", [{"question_id": -3, "image_id": 0, "question": ""}])
    dump(tmp_path / "a.json", [record(-3, "¿qué?", ["sí", "no"] * 5, "colour")])
    annotations = read_questions(tmp_path / "q.json", tmp_path / "a.json").annotations
    assert annotations.answer_type[0] == "colour" and annotations.answers[0] == ["sí", "no"] * 5


ENCODINGS = {
    "utf-8-sig": None,
    "utf-16": "the text is in UTF-16; save it as UTF-8",
    "utf-16-le": "the text is in UTF-16-LE; save it as UTF-8",
    "utf-32": "the text is in UTF-32; save it as UTF-8",
    "latin-1": "the text is not in UTF-8 .byte 0xe9 at [0-9]+., perhaps Latin-1; save it as UTF-8",
}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("name", ["q.json", "a.json"])
def test_encodings(tmp_path, encoding, name):
    answer = ["café"] * 10
    contents = {
        "q.json": [{"question_id": 1, "image_id": 2, "question": "un café?"}],
        "a.json": [record(1, "what", answer)],
    }
    for file, content in contents.items():
        text = json.dumps(content, ensure_ascii=False)
        (tmp_path / file).write_text(text, encoding=encoding if file == name else "utf-8")
    if ENCODINGS[encoding] is None:
        joined = read_questions(tmp_path / "q.json", tmp_path / "a.json")
        assert joined.text == ["un café?"] and joined.annotations.answers[0] == answer
    else:
        with pytest.raises(InputError, match=f"{name}: {ENCODINGS[encoding]}"):
            read_questions(tmp_path / "q.json", tmp_path / "a.json")


TEXT = st.text(max_size=8)
CONTENT = st.lists(st.tuples(TEXT, st.lists(TEXT, min_size=10, max_size=10)), min_size=1, max_size=5)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(CONTENT, st.booleans(), st.booleans(), st.booleans())
def test_any_text_in_any_form_is_read_as_written(tmp_path, content, wrapped, escaped, marked):
    questions = [{"question_id": i, "image_id": 0, "question": text} for i, (text, _) in enumerate(content)]
    annotations = [record(i, "t", answers) for i, (_, answers) in enumerate(content)]
    for key, records in (("questions", questions), ("annotations", annotations)):
        text = json.dumps({"info": {}, key: records} if wrapped else records, ensure_ascii=escaped)
        (tmp_path / key).write_text(text, encoding="utf-8-sig" if marked else "utf-8")
    joined = read_questions(tmp_path / "questions", tmp_path / "annotations")
    assert joined.text == [text for text, _ in content]
    assert [joined.annotations.answers[i] for i in range(len(joined))] == [answers for _, answers in content]


def test_questions_are_read_alone(tmp_path):
    questions, _ = split(4, 10)
    dump(tmp_path / "q.json", {"questions": [entry | {"answer": "extra"} for entry in questions]})
    asked = read_plain_questions(str(tmp_path / "q.json"))
    assert asked.question_id.tolist() == [13, 12, 11, 10]
    assert asked.text == [entry["question"] for entry in questions]
