"""Both presets, field by field, as the contract with users states them."""

from dataclasses import asdict

import pytest

from cdvqa.errors import InputError
from cdvqa.presets import preset_protocol, settle

PAPER = {
    "optimizer": "adamw", "weight_decay": 0, "global_batch": 256, "lmh_trainable": True, "train_classifier": True,
    "normalise_prior": False, "soft_score": "third", "text_format": "standard", "no_answer": "skip",
    "selection": "dev", "tie_break": "exact", "reset_before_evaluation": True, "schedule": "linear",
}  # fmt: skip
AUTHORS = {
    "weight_decay": 0, "lmh_trainable": False, "train_classifier": True, "normalise_prior": False,
    "soft_score": "third", "text_format": "authors", "no_answer": "random", "selection": "test",
    "tie_break": "strict", "reset_before_evaluation": False, "schedule": "linear",
}  # fmt: skip


@pytest.mark.parametrize(("stage", "warmup"), [(1, 0.25), (2, 0.0), (3, 0.25)])
def test_paper(stage: int, warmup: float):
    assert asdict(preset_protocol("paper", stage)) == PAPER | {"warmup": warmup}


@pytest.mark.parametrize(
    ("stage", "own"),
    [
        (1, {"optimizer": "adam", "global_batch": 64, "warmup": 34_235}),
        (2, {"optimizer": "authors_adamw", "global_batch": 256, "warmup": 0}),
        (3, {"optimizer": "adam", "global_batch": 64, "warmup": 34_235}),
    ],
)
def test_authors(stage: int, own: dict):
    assert asdict(preset_protocol("authors", stage)) == AUTHORS | own


def test_the_authors_select_on_val_where_the_data_set_has_one():
    assert preset_protocol("authors", 2, has_dev=True).selection == "dev"


def test_a_value_wins_and_is_named_only_where_it_departs():
    protocol, departures = settle(
        "paper", 1, "vqacp", {"soft_score": "clark", "text_format": "standard", "warmup": None}, {"warmup": 7}
    )
    assert protocol.soft_score == "clark" and protocol.warmup == 0.25
    assert departures == {"soft_score": "clark"}


@pytest.mark.parametrize(("field", "value"), [("warmup", 1.5), ("warmup", -1), ("global_batch", 0)])
def test_values_out_of_range_are_refused(field: str, value: float):
    with pytest.raises(InputError, match=f"--model.{field}"):
        settle("paper", 1, "vqacp", {field: value}, {})


def test_a_backbone_has_its_own_authors():
    protocol, departures = settle("authors", 2, "vqacp", {"optimizer": "adam"}, {"optimizer": "adamw", "warmup": 0})
    assert protocol.optimizer == "adam" and protocol.warmup == 0 and protocol.tie_break == "strict"
    assert departures == {"optimizer": "adam"}
