"""Pictures for TensorBoard."""

from pathlib import Path

import numpy as np
from PIL import Image

from cdvqa.runs.pictures import (
    ABSENT,
    BOX,
    CELL,
    SHOWN,
    Sample,
    heat_map,
    image_of,
    layer_and_kind,
    shade,
    sheet,
    text_of,
)


def test_a_matrix_has_a_layer_and_a_kind():
    assert layer_and_kind("lxmert.encoder.x_layers.1.visn_self_att.self.value.weight") == (
        "lxmert.encoder.x_layers.1",
        "visn_self_att.self.value",
    )
    assert layer_and_kind("lxmert.pooler.dense.weight") == ("lxmert.pooler", "dense")
    assert layer_and_kind("head.weight") == ("", "head")


def test_a_heat_map_has_a_cell_for_each_matrix_and_none_for_others():
    """Its cells are at the right and lower end: above them and to their left are the labels."""
    values = {"a.0.query.weight": 1.0, "a.0.key.weight": 0.0, "a.1.query.weight": 0.25}
    picture = np.asarray(heat_map(values, 1.0))
    right, down = picture.shape[1] - 4, picture.shape[0] - 24
    places = [(row, column) for row in (0, 1) for column in (0, 1)]
    corner = {(row, column): picture[down - CELL * (2 - row), right - CELL * (2 - column)] for row, column in places}
    assert corner[0, 0].tolist() == list(shade(1.0)) and corner[0, 1].tolist() == list(shade(0.0))
    assert corner[1, 0].tolist() == list(shade(0.25)) and corner[1, 1].tolist() == list(ABSENT)
    assert shade(0.0) != shade(0.25) != shade(1.0)
    assert heat_map({"a.weight": 0.0}, 0.0).size[0] > CELL, "nothing has changed so far"


SAMPLE = Sample(
    question="what color is the ring?",
    image_id=7,
    boxes=[[0.5, 0.25, 1.0, 0.75]],
    answers=[("red", 8), ("pink", 2)],
    prior=[("blue", 0.61), ("red", 0.2)],
    prediction="pink",
    score=2 / 3,
)


def test_a_sample_has_its_boxes_on_its_image(tmp_path: Path):
    """Also where there is no image, or where it is larger than its panel."""
    Image.new("RGB", (1000, 500), (9, 9, 9)).save(tmp_path / "7.png")
    for path, ground in ((tmp_path / "7.png", (9, 9, 9)), (None, ABSENT)):
        shown = image_of(SAMPLE, path)
        spots = [(round(x * shown.width), shown.height // 2) for x in (0.2, 0.7)]
        inside = [shown.getpixel(spot) for spot in spots]
        assert inside == [ground, ground]
        assert shown.getpixel((shown.width // 2, shown.height // 2)) == BOX, "the left edge"
        assert shown.height <= SHOWN


def test_a_sample_says_what_people_the_prior_and_the_model_say():
    text = " ".join(line for line, _ in text_of(SAMPLE))
    assert text == "what color is the ring? people: red (8), pink (2) prior: blue 0.61, red 0.20 predicted: pink (67 %)"


def test_samples_stand_side_by_side():
    four, eight = (sheet([SAMPLE] * number, {}) for number in (4, 8))
    assert (eight.width, eight.height) == (four.width, 2 * four.height)
