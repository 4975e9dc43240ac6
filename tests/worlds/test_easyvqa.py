"""The easy-VQA split: types, inverted priors, disjoint images, the grid of regions."""

import builtins
import json
import sys
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image
from transformers import BertTokenizerFast

from cdvqa.errors import InputError
from cdvqa.worlds import easyvqa
from cdvqa.worlds.easyvqa import PREFIXES, Source, grid_regions, make_easyvqa, question_type, read_package, resample

easy_vqa = pytest.importorskip("easy_vqa")
SPLITS = ("train", "id", "test")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    training, testing = read_package()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(easyvqa, "read_package", lambda: (training[:4000], testing[:2000]))
        folder = tmp_path_factory.mktemp("worlds") / "easyvqa"
        make_easyvqa(folder)
    return folder


def read(folder: Path, split: str, kind: str) -> list[dict]:
    return json.loads((folder / f"vqacp_v2_{split}_{kind}.json").read_text())


def test_all_questions_of_the_package_have_one_of_ten_types() -> None:
    training, testing = read_package()
    types = {question_type(question.text) for question in training + testing}
    assert types == set(PREFIXES) and len(PREFIXES) == 10
    assert question_type("is there not a red shape?") == "is there not a"
    assert question_type("is a circle present?") == "is a"


def test_annotations_have_ten_equal_answers(world: Path) -> None:
    for split in SPLITS:
        questions, annotations = read(world, split, "questions"), read(world, split, "annotations")
        for question, annotation in zip(questions, annotations, strict=True):
            assert question["question_id"] == annotation["question_id"]
            assert [a["answer"] for a in annotation["answers"]] == [annotation["multiple_choice_answer"]] * 10
            yes_no = annotation["multiple_choice_answer"] in ("yes", "no")
            assert annotation["answer_type"] == ("yes/no" if yes_no else "other")
        assert len({q["question_id"] for q in questions}) == len(questions) > 100


def test_the_test_prior_is_the_inverse_of_the_training_prior() -> None:
    training, testing = read_package()
    rng = np.random.default_rng(0)
    train, test = resample(training, False, rng), resample(testing, True, rng)
    for prefix in PREFIXES:
        counts = [Counter(q.answer for q in split if question_type(q.text) == prefix) for split in (train, test)]
        assert set(counts[0]) == set(counts[1])
        shares = np.array([[c[a] / c.total() for a in sorted(c)] for c in counts])
        assert shares[0].max() / shares[0].min() == pytest.approx(8, rel=0.5)
        inverse = (1 / shares[0]) / (1 / shares[0]).sum()
        np.testing.assert_allclose(shares[1], inverse, atol=0.05)


def test_images_are_disjoint_and_all_described(world: Path) -> None:
    used = [{q["image_id"] for q in read(world, split, "questions")} for split in SPLITS]
    assert sum(map(len, used)) == len(set.union(*used))
    with h5py.File(world / "features.h5") as file:
        assert set(file["image_id"][:]) == set.union(*used)
        assert file["features"].shape[1:] == (16, 128) and np.isfinite(file["features"][:]).all()
        assert file["boxes"][:].min() == 0 and file["boxes"][:].max() == 1
        assert (file["size"][:] == 64).all() and (file["num_boxes"][:] == 16).all()
        features = file["features"][0]
    with Image.open(world / "images" / "1.png") as image:
        np.testing.assert_allclose(features, grid_regions(image)[0], atol=0.02)


def test_a_cell_is_cut_where_its_box_says() -> None:
    image = Image.new("RGB", (64, 64))
    image.paste((255, 255, 255), (32, 16, 48, 32))
    features, boxes = grid_regions(image)
    different = [i for i in range(16) if not np.allclose(features[i], features[0], atol=1e-3)]
    assert different == [6]
    np.testing.assert_allclose(boxes[6], [0.5, 0.25, 0.75, 0.5])


def test_vocabulary_covers_the_questions(world: Path) -> None:
    tokenizer = BertTokenizerFast.from_pretrained(world)
    ids = tokenizer([q["question"] for q in read(world, "test", "questions")]).input_ids
    assert tokenizer.pad_token_id == 0 and tokenizer.unk_token_id not in {piece for q in ids for piece in q}


def test_resampling_depends_on_the_seed_alone() -> None:
    questions = [Source(f"is a {n} present?", "yes" if n % 2 else "no", Path(f"{n}.png")) for n in range(200)]
    once, again, other = (resample(questions, False, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert once == again != other
    assert Counter(q.answer for q in once) == {"no": 100, "yes": 12}


def test_without_the_package_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real_import = builtins.__import__

    def refuse(name: str, *args: object, **kwargs: object) -> object:
        if name == "easy_vqa":
            raise ModuleNotFoundError(name)
        return real_import(name, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.delitem(sys.modules, "easy_vqa", raising=False)
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(InputError, match=r'pip install "cdvqa\[easyvqa\]"'):
        make_easyvqa(tmp_path / "easyvqa")
    assert list(tmp_path.iterdir()) == []
