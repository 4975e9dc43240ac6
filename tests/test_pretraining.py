"""The recipe of the small models that ship, on a handful of steps, and what ships."""

from pathlib import Path

import pytest
import torch

from cdvqa.backbones import Backbone, Lxmert, Mplug, VisualBert
from cdvqa.data.questions.text import load_tokenizer
from cdvqa.worlds.drawing import COLOURS, SHAPES, SIZES, Thing
from cdvqa.worlds.layout import write_vocabulary
from cdvqa.worlds.scene_folder import SHIPPED
from cdvqa.worlds.scene_questions import LANGUAGE
from pretraining import ANSWERS, ask_balanced
from pretraining.images import patch_contents, picture
from pretraining.learner import naming_loss
from pretraining.pretrain import LEARNERS, pretrain

BACKBONES = {"lxmert": Lxmert, "visualbert": VisualBert, "mplug": Mplug}


def loaded(name: str, folder: Path) -> tuple[Backbone, float]:
    model = BACKBONES[name](len(ANSWERS), pretrained=str(folder))
    model.answers, model.tokenizer = list(ANSWERS), load_tokenizer(folder)
    report = model.load_pretrained()
    assert report is not None
    return model, report.share


@pytest.mark.parametrize("name", LEARNERS)
def test_a_few_steps_make_a_folder_that_its_backbone_loads(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(LEARNERS[name], "batch", 4)
    pretrain(name, tmp_path / "one", questions=40, steps=1)
    pretrain(name, tmp_path / "three", questions=40, steps=3)
    (one, _), (three, share) = loaded(name, tmp_path / "one"), loaded(name, tmp_path / "three")
    assert share == 1
    # What has a gradient has moved; the answer's part of each model among it.
    moved = [key for key, value in one.named_parameters() if not torch.equal(value, three.get_parameter(key))]
    assert len(moved) > 0.9 * sum(parameter.requires_grad for parameter in one.parameters())
    assert any(key.startswith("classifier") for key in moved)


@pytest.mark.parametrize("name", SHIPPED)
def test_what_ships_is_whole_and_small(name: str):
    model, share = loaded(name, SHIPPED[name])
    assert share == 1
    assert sum(path.stat().st_size for path in SHIPPED[name].iterdir()) <= 4 * 2**20
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_the_answers_of_a_model_that_says_them_are_words_of_its_vocabulary():
    tokenizer = load_tokenizer(SHIPPED["mplug"])
    unknown = tokenizer.token_to_id("[UNK]")
    assert all(unknown not in tokenizer.encode(text).ids for text in (*ANSWERS, *LANGUAGE))
    assert tokenizer.get_vocab_size() <= 256


def test_questions_are_answered_about_their_own_scenes(tmp_path: Path):
    write_vocabulary(tmp_path / "vocab.txt", LANGUAGE)
    tokenizer = load_tokenizer(tmp_path / "vocab.txt")
    asked = ask_balanced(60, 0, tokenizer)
    assert asked.image.tolist() == sorted(asked.image.tolist()) and asked.image[-1] + 1 == len(asked.scenes)
    seen = set()
    for row, ids in enumerate(asked.ids):
        question = tokenizer.decode(ids[ids > 0].tolist())
        scene = asked.scenes[int(asked.image[row])]
        if question.startswith("how many"):
            colour = question.split()[2]
            count = str(sum(thing.colour == colour for thing in scene))
            seen.add(question)
            assert asked.target[row, ANSWERS.index(count)] > 0
            assert asked.named[row].tolist() == [float(colour == name) for name in COLOURS] + [0.0] * len(SHAPES)
    assert len(seen) > 2


def test_what_has_its_centre_in_a_patch_is_drawn_there():
    thing = Thing("green", "cube", "large", 100, 30)
    seen = patch_contents([thing]).view(8, 8, 3)
    [[row, column]] = (seen[..., 0] >= 0).nonzero().tolist()
    assert seen[row, column].tolist() == [
        list(COLOURS).index("green"), SHAPES.index("cube"), list(SIZES).index("large"),
    ]  # fmt: skip
    pixels = picture([thing])
    assert pixels.shape == (96, 96, 3)
    centre = pixels[12 * row : 12 * row + 12, 12 * column : 12 * column + 12].reshape(-1, 3)
    assert abs(centre.astype(int) - COLOURS["green"]).max(axis=1).min() < 10


def test_naming_asks_for_the_colour_and_the_shape_of_each_thing():
    things = torch.tensor([[0, 2, 1], [3, 5, 0]])  # a red cone, a yellow cross
    named = torch.zeros(2, len(COLOURS) + len(SHAPES))
    named[0, 0] = named[1, len(COLOURS) + 5] = 1  # "red" is asked of the first, "cross" of the second
    sure = torch.tensor([[20.0, -20.0], [-20.0, 20.0]])
    assert naming_loss(sure, things, named) < 1e-6 < 10 < naming_loss(-sure, things, named)
