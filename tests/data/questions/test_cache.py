"""Cached questions, word pieces, targets, vocabulary and prior: equal to what was derived, and never stale."""

import errno
import os
import random
import shutil
from dataclasses import replace

import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cdvqa.data import prepared as module
from cdvqa.data.answers.prior import QuestionTypePrior
from cdvqa.data.answers.targets import SoftTargets
from cdvqa.data.answers.vocabulary import AnswerVocabulary
from cdvqa.data.datasets import VQACP
from cdvqa.data.prepared import PreparedQuestions
from cdvqa.data.questions.annotations import Annotations
from cdvqa.data.questions.cache import Cache, pack_questions, unpack_questions
from cdvqa.data.questions.official import Questions, read_questions
from cdvqa.data.questions.text import load_tokenizer, tokenise
from cdvqa.errors import InputError
from cdvqa.files import write_atomically
from cdvqa.presets import preset_protocol
from tests.data.toy import PIECES, record, write_toy

PAPER = preset_protocol("paper", 1)
MAKERS = (
    "pack_questions",
    "word_pieces",
    "SoftTargets.from_annotations",
    "count_answers",
    "QuestionTypePrior.from_targets",
)


@pytest.fixture
def root(tmp_path):
    return write_toy(tmp_path / "toy")


def prepare(root, protocol=PAPER, min_count=2, seed=0):
    return PreparedQuestions(VQACP(), root, str(root / "vocab.txt"), min_count, "ood", seed, protocol)


def contents(prepared):
    """Everything that training takes, in comparable form."""
    splits = {}
    for name in prepared.splits:
        questions, tokens, targets = prepared.split(name)
        splits[name] = [
            questions.text,
            [column.tolist() for column in (questions.image_id, questions.question_id, tokens.ids)],
            None if tokens.lengths is None else tokens.lengths.tolist(),
            [questions.annotations.answers[row] for row in range(len(questions))],
            [questions.annotations.question_type[row] for row in range(len(questions))],
            targets.dense(np.arange(len(targets))).tolist(),
            targets.best_label.tolist(),
        ]
    prior = prepared.prior
    types = (prepared.question_types, prepared.answer_types)
    return splits, prepared.vocabulary.answers, prior.question_types, prior.table.tolist(), types


@pytest.fixture
def made(monkeypatch):
    """Names of the steps that were really done."""
    done = []

    def watch(name):
        owner, _, attribute = name.rpartition(".")
        target = getattr(module, owner) if owner else module
        original = getattr(target, attribute)
        monkeypatch.setattr(
            target, attribute, lambda *args, **kwargs: [done.append(name), original(*args, **kwargs)][1]
        )

    for name in MAKERS:
        watch(name)
    return done


@pytest.mark.parametrize("preset", ["paper", "authors"])
def test_what_is_kept_is_what_was_derived(root, made, preset):
    protocol = preset_protocol(preset, 1)
    first = contents(prepare(root, protocol))
    assert set(made) == set(MAKERS)
    made.clear()
    assert contents(prepare(root, protocol)) == first and not made


def test_an_empty_vocabulary_is_named(root):
    """The remedy was --data.num_answers 0."""
    with pytest.raises(InputError, match=r"no answer is given to 1000 training questions .* lower --data\.min_count"):
        _ = prepare(root, min_count=1000).vocabulary


def test_it_is_what_the_parts_give(root):
    prepared = prepare(root)
    whole = read_questions(root / "vqacp_v2_train_questions.json", root / "vqacp_v2_train_annotations.json")
    vocabulary = AnswerVocabulary.from_annotations(whole.annotations, 2)
    train, dev = prepared.split("train"), prepared.split("dev")
    assert prepared.vocabulary.answers == vocabulary.answers
    assert len(train.questions) + len(dev.questions) == len(whole) == 60
    assert sorted([*train.questions.question_id, *dev.questions.question_id]) == whole.question_id.tolist()
    prior = QuestionTypePrior.from_annotations(train.questions.annotations, vocabulary)
    assert prepared.prior.question_types == prior.question_types
    np.testing.assert_array_equal(prepared.prior.table, prior.table)
    for questions, tokens, targets in (train, dev, prepared.split("test")):
        expected = tokenise(questions.text, load_tokenizer(root), "standard")
        np.testing.assert_array_equal(tokens.ids, expected.ids)
        rows = np.arange(len(questions))
        of_annotations = SoftTargets.from_annotations(questions.annotations, vocabulary)
        np.testing.assert_array_equal(targets.dense(rows), of_annotations.dense(rows))


def test_vocabulary_and_prior_are_readable(root):
    prepared = prepare(root)
    prior, folder = prepared.prior, root / ".cdvqa"
    vocabulary = orjson.loads((folder / "vocabulary.json").read_bytes())
    annotations = orjson.loads((root / "vqacp_v2_train_annotations.json").read_bytes())
    chosen = [annotation["multiple_choice_answer"] for annotation in annotations]
    assert vocabulary["questions"] == [chosen.count(answer) for answer in vocabulary["answers"]]
    assert vocabulary["answers"] == prepared.vocabulary.answers
    kept = orjson.loads((folder / "prior-third.json").read_bytes())
    assert kept["question_types"] == prior.question_types
    np.testing.assert_array_equal(np.array(kept["table"], np.float32), prior.table)


def change_an_answer(root):
    path = root / "vqacp_v2_train_annotations.json"
    records = orjson.loads(path.read_bytes())
    records[0]["answers"][0]["answer"] = "x" * len(records[0]["answers"][0]["answer"])  # the size stays as it was
    path.write_bytes(orjson.dumps(records))


CHANGES = {
    "an annotation": (change_an_answer, {}, set(MAKERS)),
    "word pieces": (lambda root: (root / "vocab.txt").write_text("\n".join([*PIECES, "cat"])), {}, {"word_pieces"}),
    "text format": (None, {"protocol": replace(PAPER, text_format="authors")}, {"word_pieces"}),
    "soft score": (None, {"protocol": replace(PAPER, soft_score="clark")}, {MAKERS[2], MAKERS[4]}),
    "normalised prior": (None, {"protocol": replace(PAPER, normalise_prior=True)}, {MAKERS[4]}),
    "development split": (None, {"seed": 1}, {MAKERS[4]}),
    "smallest count": (None, {"min_count": 12}, {MAKERS[2], MAKERS[3], MAKERS[4]}),
    "version": (None, {}, set(MAKERS)),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_depends_on_a_change_is_rebuilt_and_nothing_else(root, made, monkeypatch, tmp_path, what):
    change, options, expected = CHANGES[what]
    contents(prepare(root))
    made.clear()
    if what == "version":
        monkeypatch.setattr("cdvqa.data.questions.cache.VERSION", 99)
    if change is not None:
        change(root)
    again = contents(prepare(root, **options))
    assert set(made) == expected
    for file in (root / ".cdvqa").iterdir():
        file.unlink()
    assert contents(prepare(root, **options)) == again


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"not an archive", b"{}", b"[1]"])
def test_damaged_and_foreign_files_are_replaced(root, made, content):
    first = contents(prepare(root))
    for file in (root / ".cdvqa").iterdir():
        file.write_bytes(content)
    made.clear()
    assert contents(prepare(root)) == first and set(made) == set(MAKERS)
    made.clear()
    assert contents(prepare(root)) == first and not made


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 1 << 30), st.sampled_from(["flip", "cut"]))
def test_any_damage_is_noticed_or_harmless(tmp_path, seed, kind):
    draw = random.Random(seed)
    kept, path = Cache(tmp_path), tmp_path / ".cdvqa" / "numbers.npz"
    numbers = np.arange(50)

    def load():
        return kept.get("numbers.npz", {"of": "this"}, lambda: {"numbers": numbers}, lambda arrays: arrays["numbers"])

    load()
    whole = bytearray(path.read_bytes())
    place = draw.randrange(len(whole))
    if kind == "flip":
        whole[place] ^= 1 << draw.randrange(8)
    path.write_bytes(whole if kind == "flip" else whole[:place])
    assert load().tolist() == numbers.tolist()


def test_a_file_that_lacks_an_array_is_rebuilt(tmp_path):
    kept = Cache(tmp_path)
    kept.get("a.npz", {}, lambda: {"other": np.zeros(1)}, lambda arrays: None)
    assert kept.get("a.npz", {}, lambda: {"wanted": np.ones(1)}, lambda arrays: arrays["wanted"]).tolist() == [1]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_cache_that_cannot_be_written_stops_nothing_and_is_reported_once(root, monkeypatch, recwarn, number):
    """A full disk stopped training for a cache that is optional."""
    expected = contents(prepare(root))
    for file in (root / ".cdvqa").iterdir():
        file.unlink()

    def fail(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("cdvqa.data.questions.cache.np.savez", fail)
    monkeypatch.setattr("cdvqa.files.Path.write_bytes", fail)
    recwarn.clear()
    assert contents(prepare(root)) == expected
    assert [str(warning.message) for warning in recwarn] == [
        f"{root}/.cdvqa: cannot be written ({os.strerror(number)}); questions are read again by each run"
    ]
    assert not list((root / ".cdvqa").iterdir())


def test_a_file_where_the_folder_should_be_stops_nothing(root):
    expected = contents(prepare(root))
    shutil.rmtree(root / ".cdvqa")
    (root / ".cdvqa").write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="cannot be written"):
        assert contents(prepare(root)) == expected


def test_two_nodes_never_share_a_temporary_name(root, monkeypatch):
    names = []
    for host in ("node1", "node2"):
        monkeypatch.setattr("cdvqa.files._HOST", host)
        with write_atomically(root / "a.json") as temporary:
            names.append(temporary.name)
            temporary.write_text("{}")
    assert len(set(names)) == 2 and all(str(os.getpid()) in name for name in names)


@given(st.lists(st.tuples(st.text(max_size=5), st.lists(st.text(max_size=5), min_size=1, max_size=4)), max_size=6))
def test_packing_loses_nothing(rows):
    records = [record(number, text, answers) for number, (text, answers) in enumerate(rows)]
    questions = Questions(np.arange(len(rows)), [text for text, _ in rows], Annotations.of(records))
    again = unpack_questions(pack_questions(questions))
    assert again.text == questions.text and again.image_id.tolist() == questions.image_id.tolist()
    for column in ("question_type", "answer_type", "multiple_choice_answer", "answers"):
        one, other = getattr(again.annotations, column), getattr(questions.annotations, column)
        assert [one[row] for row in range(len(rows))] == [other[row] for row in range(len(rows))]
