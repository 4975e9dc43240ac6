"""Words in the image and names of objects, appended to the question."""

import numpy as np
import pytest

from cdvqa.data.questions.extra_text import ExtraText, word_pieces
from cdvqa.data.questions.text import load_tokenizer
from cdvqa.errors import InputError
from tests.data.toy import PIECES, dump

RECORDS = [
    {"question_id": 1, "ocr": ["STOP!", "re-do"], "object_label": "dog&&man.", "answer": ["yes"], "image": "x.jpg"},
    {"question_id": 2, "ocr": [[[0.1, 0.2], "Taxi"], [[0.3, 0.4], "5/6"]], "object_label": ""},
    {"question_id": 3, "ocr": [], "object_label": "dog"},
    {"question_id": 4},
    {"question_id": 5, "ocr": [f"w{i}" for i in range(40)]},
]


@pytest.fixture
def extra(tmp_path):
    dump(tmp_path / "extra.json", RECORDS)
    return ExtraText(tmp_path / "extra.json")


def test_what_is_appended_to_a_question(extra):
    questions = [f"Is it? {i}" for i in range(7)]
    appended = [
        "",
        " [SEP] stop re do [SEP] dog man.",
        " [SEP] taxi 5 6",
        " [SEP] dog",
        "",
        " [SEP] " + " ".join(f"w{i}" for i in range(30)),
        "",
    ]
    assert extra.appended(np.arange(7), questions) == [a + b for a, b in zip(questions, appended, strict=True)]
    assert len(extra) == 5


def test_separators_are_one_piece_each_and_80_pieces_are_kept(tmp_path, extra):
    (tmp_path / "vocab.txt").write_text("\n".join(PIECES))
    tokenizer = load_tokenizer(tmp_path)
    pieces = word_pieces(np.array([3, 5, 9]), ["is the dog", "dog " * 100, "dog " * 100], tokenizer, "standard", extra)
    ids, mask = pieces.batch(np.arange(3))
    assert ids.shape == (3, 80)
    assert ids[0, :8].tolist() == [2, 5, 6, 11, 3, 11, 3, 0] and mask.sum(1).tolist() == [7, 80, 80]
    assert word_pieces(np.array([3]), ["dog"], tokenizer, "standard", None).ids.shape == (1, 20)


@pytest.mark.parametrize(
    "record, message",
    [
        ({"question_id": "7"}, r"record 0 \(question 7\): 'question_id' must be an integer"),
        ({"question_id": 7, "ocr": "stop"}, r"record 0 \(question 7\): 'ocr' must be a list of words, or of pairs"),
        ({"question_id": 7, "ocr": [["stop", 3]]}, r"record 0 \(question 7\): 'ocr' must be a list of words"),
        ({"question_id": 7, "ocr": [[]]}, r"record 0 \(question 7\): 'ocr' must be a list of words"),
        ({"question_id": 7, "object_label": ["dog"]}, r"record 0 \(question 7\): 'object_label' must be a string"),
        ("stop", "record 0 is not a JSON object"),
    ],
)
def test_wrong_records_are_named(tmp_path, record, message):
    dump(tmp_path / "extra.json", [record])
    with pytest.raises(InputError, match=rf"extra\.json: {message}"):
        ExtraText(tmp_path / "extra.json")
    with pytest.raises(InputError, match=r"absent\.json: no such file"):
        ExtraText(tmp_path / "absent.json")
