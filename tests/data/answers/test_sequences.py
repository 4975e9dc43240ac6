"""What generative backbones are trained to say: distinct answers, their shares, their prior, their word pieces."""

import json

import numpy as np
import pytest
import torch

from cdvqa.data.answers.sequences import AnswerTexts
from cdvqa.data.questions.annotations import Annotations
from cdvqa.data.questions.text import load_tokenizer, tokenise
from tests.data.toy import record

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "blue", "dark", "two", "##fold"]


@pytest.fixture
def tokenizer(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(PIECES))
    return load_tokenizer(tmp_path / "vocab.txt")


def texts(tokenizer, *questions):
    """Of (question type, answers) pairs."""
    records = [record(i, kind, answers) for i, (kind, answers) in enumerate(questions)]
    return AnswerTexts.from_annotations(Annotations.of(records), tokenizer)


def test_answers_and_weights_are_the_authors(golden, tokenizer):
    arrays = golden("mplug_samples")
    given, theirs, weights = (json.loads(str(arrays[name])) for name in ("input_answers", "answers", "weights"))
    ours = texts(tokenizer, *(("", answers) for answers in given))
    names = list(dict.fromkeys(answer for answers in given for answer in answers))
    for question, (answers, shares) in enumerate(zip(theirs, weights, strict=True)):
        entries = slice(*ours.offsets[question : question + 2])
        assert [f"{names[code]}[SEP]" for code in ours.code[entries]] == answers
        np.testing.assert_allclose(ours.weight[entries], shares, atol=1e-9)


def test_the_prior_is_the_share_of_a_string_among_all_answers_to_its_type(tokenizer):
    ours = texts(
        tokenizer,
        ("what color", ["red"] * 6 + ["blue"] * 4),
        ("how many", ["two"] * 9 + ["red"]),
        ("what color", ["blue"] * 7 + ["Blue", "two", "two"]),
    )
    batch = ours.batch(np.array([0, 1, 2]))
    assert batch.question.tolist() == [0, 0, 1, 1, 2, 2, 2]
    np.testing.assert_allclose(batch.prior, [6 / 20, 11 / 20, 9 / 10, 1 / 10, 11 / 20, 1 / 20, 2 / 20], rtol=1e-6)
    np.testing.assert_allclose(batch.weight, [0.6, 0.4, 0.9, 0.1, 0.7, 0.1, 0.2], rtol=1e-6)


def test_any_number_of_answers_is_shared_out(tokenizer):
    ours = texts(tokenizer, ("a", ["red", "blue", "red"]), ("a", ["two"]))
    np.testing.assert_allclose(ours.weight, [2 / 3, 1 / 3, 1], rtol=1e-12)
    np.testing.assert_allclose(ours.prior, [2 / 4, 1 / 4, 1 / 4], rtol=1e-6)


def test_word_pieces_end_with_two_separators_and_are_padded_to_the_longest(tokenizer):
    ours = texts(tokenizer, ("a", ["Red"] * 10), ("b", ["dark twofold red"] * 5 + ["blue"] * 5), ("a", ["??"] * 10))
    batch = ours.batch(np.array([1, 0]))
    assert batch.ids.tolist() == [[2, 7, 8, 9, 5, 3, 3], [2, 6, 3, 3, 0, 0, 0], [2, 5, 3, 3, 0, 0, 0]]
    assert torch.equal(batch.mask, (batch.ids != 0).long()) and batch.question.tolist() == [0, 0, 1]
    assert batch.ids.dtype == batch.mask.dtype == batch.question.dtype == torch.int64
    assert batch.weight.dtype == batch.prior.dtype == torch.float32
    assert ours.batch(np.array([2, 2])).ids.tolist() == [[2, 1, 1, 3, 3]] * 2


def test_answers_are_not_cut_where_questions_are(tokenizer):
    tokenise(["red"], tokenizer, "authors")  # leaves its limit of 14 pieces with the tokeniser
    batch = texts(tokenizer, ("a", [" ".join(["red"] * 30)] * 10)).batch(np.array([0]))
    assert batch.ids.tolist() == [[2, *[5] * 30, 3, 3]]


def test_each_distinct_string_is_tokenised_once(tokenizer):
    asked = []

    class Counting:
        def __getattr__(self, name):
            return getattr(tokenizer, name)

        def encode_batch_fast(self, strings, **options):
            asked.extend(strings)
            return tokenizer.encode_batch_fast(strings, **options)

    texts(Counting(), ("a", ["red", "blue"] * 5), ("b", ["red"] * 10))
    assert asked == ["red[SEP]", "blue[SEP]"]


def test_no_questions(tokenizer):
    batch = texts(tokenizer, ("a", ["red"] * 10)).batch(np.array([], np.intp))
    assert batch.ids.shape == batch.mask.shape == (0, 0) and len(batch.weight) == len(batch.question) == 0


def test_answers_that_the_word_pieces_cannot_write_are_found(tokenizer):
    with pytest.warns(UserWarning, match="cannot write 30% of the human answers, the first 'green'"):
        texts(tokenizer, ("a", ["red"] * 6 + ["green"] * 4), ("b", ["dark green"] * 2 + ["two"] * 8))


def test_answers_that_they_can_write_are_not(tokenizer, recwarn):
    texts(tokenizer, ("a", ["red"] * 10))
    assert not recwarn.list
