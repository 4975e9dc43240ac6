"""Word pieces in both text formats."""

import json
import zipfile

import numpy as np
import pytest

from cdvqa.data.questions.text import load_tokenizer, tokenise, vocabulary_size
from cdvqa.errors import InputError
from tests.data.toy import PIECES


@pytest.fixture
def bert(shared):
    return load_tokenizer(shared / "data/bert_base_uncased_vocab.txt")


def test_authors_format_equals_the_authors(golden, bert):
    arrays = golden("tokenised_questions")
    tokens = tokenise(json.loads(str(arrays["questions"])), bert, "authors")
    input_ids, attention_mask = tokens.batch(np.arange(10))
    np.testing.assert_array_equal(input_ids, arrays["ids"])
    assert attention_mask is None and input_ids.dtype == np.int64


def test_standard_format_has_special_pieces_and_a_mask(golden, bert):
    arrays = golden("tokenised_questions")
    questions = [*json.loads(str(arrays["questions"])), "why " * 30]
    input_ids, attention_mask = tokenise(questions, bert, "standard").batch(np.arange(len(questions)))
    assert input_ids.shape == (11, 20) and (input_ids[:, 0] == 101).all()
    np.testing.assert_array_equal(attention_mask, input_ids != 0)
    last = attention_mask.sum(1) - 1
    assert (input_ids[np.arange(11), last] == 102).all()
    for row in np.flatnonzero(arrays["length"] < 14):  # questions that the authors' 14 pieces do not cut
        pieces = arrays["ids"][row, : arrays["length"][row]]
        assert input_ids[row, 1 : last[row]].tolist() == pieces.tolist()


def test_the_real_questions(shared, bert):
    with zipfile.ZipFile(shared / "data/vqavs_val.zip") as archive:
        questions = [record["question"] for record in json.loads(archive.read("Val/Val-Ques.json"))]
    tokens = tokenise(questions, bert, "standard")
    assert tokens.ids.dtype == np.uint16 and len(tokens) == len(questions)
    # 0.8 % of these questions are longer than 14 pieces, as counted without the two special ones
    assert 0.007 < (tokens.lengths > 16).mean() < 0.009


@pytest.fixture
def vocabulary(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(PIECES))
    return path


def test_own_vocabulary_as_file_or_folder(vocabulary):
    for source in (vocabulary, vocabulary.parent):
        ids, mask = tokenise(["How many DOG?", ""], load_tokenizer(source), "standard").batch(np.array([0, 1]))
        assert ids[0, :7].tolist() == [2, 7, 8, 11, 12, 3, 0]
        assert mask.sum(1).tolist() == [6, 2]


def test_a_tokeniser_saved_as_json_in_a_folder(vocabulary, tmp_path):
    load_tokenizer(vocabulary).save(str(tmp_path / "tokenizer.json"))
    vocabulary.unlink()
    ids, _ = tokenise(["how many"], load_tokenizer(tmp_path), "standard").batch(np.array([0]))
    assert ids[0, :4].tolist() == [2, 7, 8, 3]


def test_tokenising_questions_leaves_the_tokeniser_as_it_was(vocabulary):
    """Truncation stayed on the shared tokeniser and cut the answers of a generative backbone."""
    tokenizer = load_tokenizer(vocabulary)
    before = tokenizer.to_str()
    for text_format in ("standard", "authors"):
        tokenise(["dog " * 40], tokenizer, text_format)
    assert tokenizer.to_str() == before and len(tokenizer.encode("dog " * 40).ids) == 42


@pytest.mark.parametrize(("text_format", "expected"), [("standard", [2, *[11] * 18, 3]), ("authors", [11] * 14)])
def test_long_questions_are_cut(vocabulary, text_format, expected):
    ids, _ = tokenise(["dog " * 40], load_tokenizer(vocabulary), text_format).batch(np.array([0]))
    assert ids[0].tolist() == expected


def test_a_saved_tokeniser_that_cuts_does_not_cut_here(vocabulary, tmp_path):
    tokenizer = load_tokenizer(vocabulary)
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=9)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    ids, mask = tokenise(["dog dog dog dog"], load_tokenizer(tmp_path / "tokenizer.json"), "standard").batch([0])
    assert ids[0, :6].tolist() == [2, 11, 11, 11, 11, 3] and mask.sum() == 6


def test_ids_of_any_size_are_kept(vocabulary, tmp_path):
    """The type of the ids went by the number of word pieces, so that a high id wrapped round."""
    load_tokenizer(vocabulary).save(str(tmp_path / "tokenizer.json"))
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    content["model"]["vocab"]["dog"] = 70_000
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    tokenizer = load_tokenizer(tmp_path / "tokenizer.json")
    assert vocabulary_size(tokenizer) == 70_001
    assert tokenise(["dog"], tokenizer, "standard").ids[0, :3].tolist() == [2, 70_000, 3]


def test_what_cannot_be_used_is_refused_with_the_remedy(vocabulary, tmp_path):
    remedy = r"--data\.tokenizer PATH/vocab\.txt"
    with pytest.raises(InputError, match=f"no-such/tokeniser.*{remedy}"):
        load_tokenizer("no-such/tokeniser")
    with pytest.raises(InputError, match=f"no such file; .*{remedy}"):
        load_tokenizer(str(tmp_path / "absent.txt"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"holds neither vocab\.txt nor tokenizer\.json"):
        load_tokenizer(tmp_path / "empty")
    (tmp_path / "tokenizer.json").write_text('{"model": 1}')
    with pytest.raises(InputError, match=rf"tokenizer\.json: not a tokeniser \(.*\); .*{remedy}"):
        load_tokenizer(tmp_path / "tokenizer.json")
    vocabulary.write_bytes("\n".join(PIECES).encode() + b"\ncaf\xe9")
    with pytest.raises(InputError, match=rf"vocab\.txt: byte \d+ is not UTF-8; .*{remedy}"):
        load_tokenizer(vocabulary)
    vocabulary.write_text("\n".join(PIECES[:3]))
    with pytest.raises(InputError, match=r"lacks \[SEP\]"):
        load_tokenizer(vocabulary)
    vocabulary.write_text("\n".join(PIECES[::-1]))
    with pytest.raises(InputError, match=r"\[PAD\] must be the first"):
        load_tokenizer(vocabulary)
