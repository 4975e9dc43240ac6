"""Both presets, field by field, as the contract with users states them."""

from dataclasses import asdict

import pytest
import yaml

from cdvqa.cli.configs import shipped
from cdvqa.errors import InputError
from cdvqa.presets import preset_protocol, settle

PAPER = {
    "optimizer": "adamw", "weight_decay": 0, "global_batch": 256, "lmh_trainable": True, "train_classifier": True,
    "normalise_prior": False, "soft_score": "third", "text_format": "standard", "no_answer": "skip",
    "selection": "dev", "dev_share": 0.05, "tie_break": "exact", "reset_before_evaluation": True, "schedule": "linear",
}  # fmt: skip
AUTHORS = {
    "weight_decay": 0, "lmh_trainable": False, "train_classifier": True, "normalise_prior": False,
    "soft_score": "third", "text_format": "authors", "no_answer": "random", "selection": "test",
    "dev_share": 0,
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
        "paper", 1, False, {"soft_score": "clark", "text_format": "standard", "warmup": None}, {"warmup": 7}
    )
    assert protocol.soft_score == "clark" and protocol.warmup == 0.25
    assert departures == {"soft_score": "clark"}


@pytest.mark.parametrize(("field", "value"), [("warmup", 1.5), ("warmup", -1), ("global_batch", 0)])
def test_values_out_of_range_are_refused(field: str, value: float):
    with pytest.raises(InputError, match=f"--model.{field}"):
        settle("paper", 1, False, {field: value}, {})


@pytest.mark.parametrize(
    ("preset", "has_dev", "given", "share"),
    [
        ("paper", False, {}, 0.05),
        ("paper", False, {"dev_share": 0.2}, 0.2),
        ("paper", False, {"dev_share": 0, "selection": "last"}, 0),
        ("paper", False, {"selection": "test"}, 0),
        ("paper", True, {"dev_share": 0.2}, 0),
        ("authors", False, {}, 0),
        ("authors", True, {}, 0),
        ("authors", False, {"dev_share": 0.1, "selection": "dev"}, 0.1),
    ],
)
def test_what_is_held_out_of_train(preset: str, has_dev: bool, given: dict, share: float):
    assert settle(preset, 1, has_dev, given, {})[0].dev_share == share


@pytest.mark.parametrize(
    ("preset", "given", "message"),
    [
        ("paper", {"dev_share": 0}, "--model.selection dev: --data.dev_share is 0, .*--model.selection last"),
        ("authors", {"selection": "dev"}, "--model.selection dev: --data.dev_share is 0"),
        (
            "paper",
            {"dev_share": 0.1, "selection": "test"},
            "--data.dev_share 0.1: --model.selection test holds nothing",
        ),
        ("paper", {"dev_share": 1}, "--data.dev_share: 1 is no share"),
        ("paper", {"dev_share": float("nan")}, "--data.dev_share: nan is no share"),
    ],
)
def test_a_selection_without_its_questions_is_refused(preset: str, given: dict, message: str):
    with pytest.raises(InputError, match=message):
        settle(preset, 1, False, given, {})


def test_the_configs_of_a_figure_or_table_take_one_preset():
    """One of Fig. 7 took `authors`, and so was selected on test, and the others `paper`."""
    presets: dict[str, set[str]] = {}
    for path in (shipped() / "paper").glob("*.yaml"):
        config = yaml.safe_load(path.read_text())
        presets.setdefault(path.name.split("_")[0], set()).add(config["model"]["init_args"]["preset"])
    assert "fig7" in presets and all(found == {"paper"} for found in presets.values()), presets


def test_a_backbone_has_its_own_authors():
    protocol, departures = settle("authors", 2, False, {"optimizer": "adam"}, {"optimizer": "adamw", "warmup": 0})
    assert protocol.optimizer == "adam" and protocol.warmup == 0 and protocol.tie_break == "strict"
    assert departures == {"optimizer": "adam"}
