"""Kept questions and word pieces: equal to what was read, and never stale."""

import numpy as np
import orjson
import pytest

from cdvqa.data import cache
from cdvqa.data.layouts import split_files
from cdvqa.data.questions import read_questions
from cdvqa.data.text import load_tokenizer, tokenise
from tests.data.toy import write_toy


@pytest.fixture
def root(tmp_path):
    return write_toy(tmp_path)


@pytest.fixture
def files(root):
    return split_files("vqacp", root)["train"]


def fresh(root, digest="tokeniser"):
    return cache.QuestionCache(root, load_tokenizer(root), digest)


def forbid(monkeypatch):
    def fail(*args):
        raise AssertionError("it was made again")

    monkeypatch.setattr(cache, "read_questions", fail)
    monkeypatch.setattr(cache, "tokenise", fail)


def same(a, b):
    assert a.text == b.text and a.image_id.tolist() == b.image_id.tolist()
    assert a.question_id.tolist() == b.question_id.tolist()
    for column in ("question_type", "answer_type", "multiple_choice_answer", "answers"):
        one, other = getattr(a.annotations, column), getattr(b.annotations, column)
        assert [one[i] for i in range(len(a))] == [other[i] for i in range(len(b))]


def test_kept_is_what_was_read(root, files, monkeypatch):
    questions = read_questions(root / files.questions, root / files.annotations)
    fresh(root).questions(files)
    for text_format in ("standard", "authors"):
        fresh(root).tokens(files, questions.text, text_format)
    expected = tokenise(questions.text, load_tokenizer(root), "standard")
    forbid(monkeypatch)
    same(fresh(root).questions(files), questions)
    tokens = fresh(root).tokens(files, questions.text, "standard")
    np.testing.assert_array_equal(tokens.ids, expected.ids)
    np.testing.assert_array_equal(tokens.lengths, expected.lengths)
    assert tokens.ids.dtype == expected.ids.dtype
    assert fresh(root).tokens(files, questions.text, "authors").lengths is None


def test_a_changed_file_is_read_again_even_at_the_same_size(root, files):
    fresh(root).questions(files)
    path = root / files.annotations
    records = orjson.loads(path.read_bytes())
    assert records[0]["answers"][0]["answer"] in ("yes", "no", "1", "2", "red", "blue")
    records[0]["answers"][0]["answer"] = "x" * len(records[0]["answers"][0]["answer"])
    path.write_bytes(orjson.dumps(records))
    assert fresh(root).questions(files).annotations.answers[0][0].startswith("x")


def test_another_tokeniser_cuts_again(root, files, monkeypatch):
    text = fresh(root).questions(files).text
    fresh(root).tokens(files, text, "standard")
    forbid(monkeypatch)
    with pytest.raises(AssertionError, match="made again"):
        fresh(root, "another").tokens(files, text, "standard")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"not an archive"])
def test_a_broken_cache_is_replaced(root, files, content, monkeypatch):
    questions = fresh(root).questions(files)
    kept = root / ".cdvqa" / "vqacp_v2_train_questions.npz"
    kept.write_bytes(content)
    same(fresh(root).questions(files), questions)
    forbid(monkeypatch)
    same(fresh(root).questions(files), questions)


def test_a_folder_that_cannot_be_written_is_no_hindrance(root, files):
    (root / ".cdvqa").write_text("a file where the folder should be")
    same(fresh(root).questions(files), read_questions(root / files.questions, root / files.annotations))
