"""The generated world: its files, its priors, and that it is whole or absent."""

import json
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image
from transformers import BertTokenizerFast

from cdvqa.cli import main
from cdvqa.errors import InputError
from cdvqa.worlds import scene_folder, scenes
from cdvqa.worlds.drawing import SIZES, Thing, cut_regions, draw_scene, sample_scene
from cdvqa.worlds.scene_questions import QUESTION_TYPES, answer_prior, candidate_questions
from cdvqa.worlds.scenes import SceneConstants, ask_scenes, make_scenes, write_scenes

SMALL = SceneConstants(train_questions=240, id_questions=60, ood_questions=120)
SPLITS = ("train", "id", "test")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("worlds") / "scenes"
    write_scenes(folder, 0, SMALL)
    return folder


def read(folder: Path, split: str, kind: str) -> list[dict]:
    return json.loads((folder / f"vqacp_v2_{split}_{kind}.json").read_text())


def test_files_follow_the_vqacp_schema(world: Path) -> None:
    for split, count in zip(SPLITS, (240, 60, 120), strict=True):
        questions, annotations = read(world, split, "questions"), read(world, split, "annotations")
        assert len(questions) == count
        assert [q["question_id"] for q in questions] == [a["question_id"] for a in annotations]
        assert len({q["question_id"] for q in questions}) == count
        assert set(questions[0]) == {"question_id", "image_id", "question", "coco_split"}
        for question, annotation in zip(questions, annotations, strict=True):
            assert question["image_id"] == annotation["image_id"]
            assert question["question"].startswith(annotation["question_type"])
            kind = QUESTION_TYPES[annotation["question_type"]]
            assert annotation["answer_type"] == kind.answer_type
            assert [a["answer_id"] for a in annotation["answers"]] == list(range(1, 11))
            assert {a["answer_confidence"] for a in annotation["answers"]} <= {"yes", "maybe"}
            given = Counter(a["answer"] for a in annotation["answers"])
            assert given[annotation["multiple_choice_answer"]] == max(given.values())
            assert set(given) <= set(kind.answers)


def test_the_small_models_lie_beside_the_questions(world: Path) -> None:
    for name in ("lxmert", "visualbert", "mplug"):
        files = {path.name: path.read_bytes() for path in (world / name).iterdir()}
        assert files == {path.name: path.read_bytes() for path in scene_folder.SHIPPED[name].iterdir()}
        assert {"config.json", "model.safetensors", "vocab.txt"} <= files.keys()


def test_annotators_sometimes_disagree(world: Path) -> None:
    unanimous = [len({a["answer"] for a in q["answers"]}) == 1 for q in read(world, "train", "annotations")]
    assert 0.3 < np.mean(unanimous) < 0.95


def test_all_answer_types_and_question_types_occur(world: Path) -> None:
    annotations = read(world, "train", "annotations")
    assert {a["answer_type"] for a in annotations} == {"yes/no", "number", "other"}
    assert {a["question_type"] for a in annotations} == set(QUESTION_TYPES)
    assert len(QUESTION_TYPES) >= 8


def test_images_are_drawn_described_and_never_shared_between_splits(world: Path) -> None:
    used = [{q["image_id"] for q in read(world, split, "questions")} for split in SPLITS]
    assert sum(map(len, used)) == len(set.union(*used))
    with h5py.File(world / "features.h5") as file:
        assert file["features"].chunks is None
        features, boxes, number = file["features"][:], file["boxes"][:], file["num_boxes"][:]
        assert set(file["image_id"][:]) == set.union(*used)
        assert (file["size"][:] == Image.open(world / "images" / "1.png").size).all()
    assert {int(path.stem) for path in (world / "images").iterdir()} == set.union(*used)
    assert features.shape[1:] == (10, 128) and np.isfinite(features).all()
    assert boxes.min() >= 0 and boxes.max() <= 1
    real = np.arange(10) < number[:, None]
    assert number.min() >= 4 and number.max() <= 10
    assert (boxes[real][:, 2:] > boxes[real][:, :2]).all()
    assert not features[~real].any() and not boxes[~real].any() and features[real].any(-1).all()


def test_vocabulary_splits_no_question_into_unknown_pieces(world: Path) -> None:
    tokenizer = BertTokenizerFast.from_pretrained(world)
    lines = (world / "vocab.txt").read_text().split()
    assert lines[0] == "[PAD]" and tokenizer.pad_token_id == 0 and len(lines) <= 256
    for split in SPLITS:
        ids = tokenizer([q["question"] for q in read(world, split, "questions")]).input_ids
        assert tokenizer.unk_token_id not in {piece for question in ids for piece in question}
        assert max(map(len, ids)) <= 14


def test_vocabulary_is_that_of_the_training_questions_of_a_full_world(world: Path) -> None:
    rng = np.random.default_rng(5)
    asked = [question.text for scene in ask_scenes(4000, 0.75, False, 4, rng) for question in scene.questions]
    words = {word for text in asked for word in text.replace("?", " ?").split()}
    assert set((world / "vocab.txt").read_text().split()[5:]) == words


@pytest.mark.parametrize("question_type", QUESTION_TYPES)
def test_the_test_prior_opposes_the_training_prior(question_type: str) -> None:
    train, test = answer_prior(question_type, 0.75, False), answer_prior(question_type, 0.75, True)
    assert train.sum() == pytest.approx(1) and test.sum() == pytest.approx(1)
    favoured = train > train.min()
    assert train[favoured].sum() > 0.75 > 0.5 > test[favoured].sum()
    assert np.ptp(answer_prior(question_type, 0.0, True)) == 0


def test_written_answers_follow_the_priors(world: Path) -> None:
    def favoured(split: str) -> float:
        annotations = read(world, split, "annotations")
        return np.mean(
            [a["multiple_choice_answer"] in QUESTION_TYPES[a["question_type"]].favourites for a in annotations]
        )

    assert favoured("train") > 0.7 and favoured("id") > 0.7 and favoured("test") < 0.35


def test_the_same_seed_gives_the_same_files(world: Path, tmp_path: Path) -> None:
    write_scenes(tmp_path / "again", 0, SMALL)
    write_scenes(tmp_path / "other", 1, SMALL)
    for path in world.rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "again" / path.relative_to(world)).read_bytes()
    assert read(world, "train", "questions") != read(tmp_path / "other", "train", "questions")
    assert (world / "vocab.txt").read_text() == (tmp_path / "other" / "vocab.txt").read_text()


def test_a_finished_world_is_kept_and_anything_else_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = SceneConstants(train_questions=8, id_questions=4, ood_questions=4)
    folder = tmp_path / "scenes"
    write_scenes(folder, 3, tiny)
    before = (folder / "features.h5").stat().st_mtime_ns
    write_scenes(folder, 3, tiny)
    assert "kept" in capsys.readouterr().out and (folder / "features.h5").stat().st_mtime_ns == before
    with pytest.raises(InputError, match="another world"):
        write_scenes(folder, 4, tiny)
    (folder / "images" / "1.png").unlink()
    with pytest.raises(InputError, match="incomplete"):
        write_scenes(folder, 3, tiny)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="mine"):
        make_scenes(tmp_path / "mine")


def test_a_half_written_world_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(scene_folder, "write_features", fail)
    with pytest.raises(KeyboardInterrupt):
        write_scenes(tmp_path / "scenes", 0, SceneConstants(train_questions=8, id_questions=4, ood_questions=4))
    assert list(tmp_path.iterdir()) == []


def test_answers_are_true_of_the_scene() -> None:
    things = [
        Thing("red", "cube", "large", 30, 30),
        Thing("red", "ball", "small", 100, 30),
        Thing("blue", "cone", "small", 100, 70),
    ]
    asked = {text: answer for (_, answer), texts in candidate_questions(things).items() for text in texts}
    assert asked["is there a red cube?"] == "yes" and asked["is there a red cone?"] == "no"
    assert asked["how many red things are there?"] == "2" and asked["what number of cones are visible?"] == "1"
    assert asked["what color is the cone?"] == "blue" and asked["what shape is the blue thing?"] == "cone"
    assert asked["is the cube on the left?"] == "yes" and asked["is the ball at the bottom?"] == "no"
    assert asked["what is the thing on the left?"] == "cube" and asked["where is the cone?"] == "bottom right"
    assert "what shape is the red thing?" not in asked, "two things are red"
    assert "what is the thing on the right?" not in asked, "two things are equally far right"


def test_features_are_a_fixed_projection_plus_noise() -> None:
    things = sample_scene(np.random.default_rng(0))
    image = draw_scene(things)
    clean = [cut_regions(image, things, 0.0, np.random.default_rng(1)).features for _ in range(2)]
    noisy = cut_regions(image, things, 2.0, np.random.default_rng(1)).features
    assert (clean[0] == clean[1]).all()
    difference = (noisy - clean[0])[: len(things)]
    assert difference.std() == pytest.approx(2.0, rel=0.1)
    assert 0.5 < clean[0][: len(things)].std() < 1.5


def test_objects_stay_inside_the_image() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        things = sample_scene(rng)
        assert 4 <= len(things) <= 10
        for thing in things:
            left, top, right, bottom = thing.box
            assert 0 <= left < right <= 128 and 0 <= top < bottom <= 96 and thing.size in SIZES


def test_the_balanced_world_has_no_noise_and_no_priors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(scenes.SIZES, "full", SMALL)
    assert main(["prepare", "scenes", "--balanced"]) == 0
    constants = json.loads(Path("data/scenes-balanced/world.json").read_text())["constants"]
    assert (constants["noise"], constants["prior_strength"], constants["train_questions"]) == (0, 0, 240)
    given = Counter(a["multiple_choice_answer"] for a in read(Path("data/scenes-balanced"), "train", "annotations"))
    assert len(given) > 20
