"""Budgets over the modalities, and the options of `model.sparsity`."""

import json
import re
from pathlib import Path

import jsonargparse
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdvqa.errors import InputError
from cdvqa.runs.folder import percent
from cdvqa.sparsity import LXMERT_COUNTS, Sparsity, Subnetwork, solve_budget

WITH_POOLER = {**LXMERT_COUNTS, "pooler": 589_824}
share = st.floats(0, 1, allow_nan=False)


def overall_of(shares):
    return sum(shares[name] * LXMERT_COUNTS[name] for name in LXMERT_COUNTS) / sum(LXMERT_COUNTS.values())


def test_nothing_given_is_uniform():
    assert solve_budget(0.7) == {"language": 0.7, "vision": 0.7, "cross": 0.7}


def test_two_given_solve_the_third():
    solved = solve_budget(0.7, language=0.9, vision=0.5)
    assert solved["language"] == 0.9
    assert solved["vision"] == 0.5
    # 0.7 * 206,682,624 - 0.9 * 87,141,888 - 0.5 * 36,965,376 zeros are left for cross
    assert solved["cross"] == pytest.approx(47_767_449.6 / 82_575_360, abs=1e-12)


@given(language=share, vision=share, cross=share, left_out=st.sampled_from(["language", "vision", "cross"]))
def test_the_third_closes_the_budget(language, vision, cross, left_out):
    wanted = {"language": language, "vision": vision, "cross": cross}
    overall = min(overall_of(wanted), 1.0)
    solved = solve_budget(overall, **{name: value for name, value in wanted.items() if name != left_out})
    assert solved == pytest.approx(wanted, abs=1e-7)
    assert all(0 <= value <= 1 for value in solved.values())
    assert solve_budget(overall, **wanted) == wanted


def test_three_given_are_checked_to_a_millionth():
    exact = solve_budget(0.5, language=0.4, vision=0.6)
    assert solve_budget(0.5 + 9e-7, **exact) == exact
    with pytest.raises(InputError, match=r"overall sparsity of 0\.500000, not 0\.500002"):
        solve_budget(0.500002, **exact)


def test_infeasible_budget_names_the_feasible_range():
    with pytest.raises(InputError, match=r"no cross sparsity gives 0\.3 overall.*between 0\.600473 and 1\.000000"):
        solve_budget(0.3, language=1.0, vision=1.0)
    with pytest.raises(InputError, match=r"between 0\.000000 and 0\.178851"):
        solve_budget(0.3, language=0.0, cross=0.0)


def test_one_alone_and_foreign_values_are_refused():
    with pytest.raises(InputError, match="vision sparsity alone"):
        solve_budget(0.5, vision=0.5)
    with pytest.raises(InputError, match=r"language sparsity is 1\.5"):
        solve_budget(0.5, language=1.5, vision=0.5)
    with pytest.raises(InputError, match="overall sparsity is nan"):
        solve_budget(float("nan"))


def test_rates_follow_the_assignment():
    assert Sparsity(overall=0.3).rates(WITH_POOLER) == dict.fromkeys(WITH_POOLER, 0.3)
    assert Sparsity(overall=0.3).rates({"language": 10, "pooler": 2}) == {"language": 0.3, "pooler": 0.3}
    assert Sparsity(assignment="global", overall=0.3).rates({"cross": 10}) == {"cross": 0.3}
    rates = Sparsity(assignment="modality", overall=0.5, language=0.3, cross=0.6).rates(WITH_POOLER)
    assert list(rates) == list(WITH_POOLER)
    assert rates["pooler"] == 0.5
    assert overall_of(rates) == pytest.approx(0.5)


def test_three_shares_decide_the_overall_share_whatever_the_config_says():
    plan = Sparsity(assignment="modality", overall=0.9, language=0.5, vision=0, cross=0).settled(WITH_POOLER)
    assert plan.overall == round(0.5 * 87_141_888 / 206_682_624, 12)
    assert plan.rates(WITH_POOLER) == {"language": 0.5, "vision": 0, "cross": 0, "pooler": plan.overall}
    even = Sparsity(assignment="modality_global", overall=0.9, language=0.3, vision=0.3, cross=0.3)
    assert even.settled(WITH_POOLER).overall == 0.3
    two = Sparsity(assignment="modality", overall=0.5, language=0.5, vision=0.5)
    assert two.settled(WITH_POOLER) == two


def test_the_pooler_has_a_share_of_its_own():
    assert Sparsity(assignment="modality", pooler=0.1).rates(WITH_POOLER)["pooler"] == 0.1
    assert Sparsity(assignment="modality_global", overall=0.3).rates({"language": 4}) == {"language": 0.3}
    with pytest.raises(InputError, match="this one has no pooler"):
        Sparsity(assignment="modality", pooler=0.1).rates(LXMERT_COUNTS)


def test_modality_assignment_needs_the_three_modalities():
    with pytest.raises(InputError, match="this one has no vision"):
        Sparsity(assignment="modality", language=0.3, cross=0.6).rates({"cross": 10, "language": 5})


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        ({"overall": 1.2}, "--model.sparsity.overall"),
        ({"assignment": "modality", "vision": -0.1}, "--model.sparsity.vision"),
        ({"language": 0.3}, "--model.sparsity.language needs --model.sparsity.assignment modality"),
        ({"pooler": 0.3}, "--model.sparsity.pooler needs --model.sparsity.assignment modality"),
        ({"assignment": "modal"}, "--model.sparsity.assignment 'modal' is unknown"),
        ({"assignment_options": {"size": 1}}, "--model.sparsity.assignment_options: uniform does not take size"),
        ({"criterion": "biggest"}, "--model.sparsity.criterion 'biggest' is unknown"),
        ({"criterion_options": {"batches": 2}}, "--model.sparsity.criterion_options: magnitude does not take batches"),
        ({"criterion": "first_order", "criterion_options": {"batches": 0}}, "criterion_options.batches is 0"),
        ({"criterion": "random", "scores": "weight"}, "--model.sparsity.scores weight"),
        ({"alpha": 0.9}, "--model.sparsity.alpha"),
        ({"threshold": 0.0}, "--model.sparsity.threshold"),
        ({"reset_every": 0}, "--model.sparsity.reset_every"),
    ],
)
def test_wrong_options_name_their_flag(options, flag):
    with pytest.raises(InputError, match=flag):
        Sparsity(**options)


def test_one_module_alone_is_pruned_and_the_overall_share_follows(cdvqa, monkeypatch, capsys):
    """The overall share had to be computed by hand to 1e-6, and the pooler had no share of its own."""
    said: list[str] = []
    monkeypatch.setattr("cdvqa.stages.mask_train.rank_zero_info", said.append)
    shares = {"language": 0.5, "vision": 0, "cross": 0, "pooler": 0.25}
    flags = [f"--model.sparsity.{name}={share}" for name, share in shares.items()]
    assert cdvqa("fit", "stage1_bce.yaml", "--trainer.max_epochs=0") == 0
    for assignment in ("modality", "modality_global"):
        said.clear()
        given = [*flags, "--trainer.max_steps=1", f"--model.sparsity.assignment={assignment}"]
        assert cdvqa("fit", "stage2_bce.yaml", *given) == 0
        (run,) = Path("logs/scenes/lxmert").glob(f"stage2_bce+bce_mask_{assignment}_s*_L50V0X0-*/seed0")
        record = json.loads((run / "run.json").read_text())
        realised = record["selected"]["sparsity"]
        assert {name: realised[name] for name in shares} == pytest.approx(shares, abs=1e-3)
        masks = Subnetwork.load(run / "subnetwork.safetensors").masks
        budget = [mask for name, mask in masks.items() if "pooler" not in name]
        overall = sum(int((~mask).sum()) for mask in budget) / sum(mask.numel() for mask in budget)
        assert record["sparsity"]["overall"] == pytest.approx(overall, abs=1e-3)
        assert f"_s{percent(record['sparsity']['overall'], 2)}_" in run.parent.name
        assert said == [f"the three shares give an overall sparsity of {record['sparsity']['overall']:g}, not 0.5"]
    # The run has the same name and identity whatever is given as the overall share.
    assert cdvqa("fit", "stage2_bce.yaml", *given, "--model.sparsity.overall=0.9") == 2
    assert f"{run}: holds a finished run" in capsys.readouterr().err


def test_options_are_read_by_the_command_line():
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Sparsity, "sparsity")
    config = parser.parse_args(["--sparsity.assignment=modality", "--sparsity.vision=0.25", "--sparsity.cross", "0.5"])
    assert parser.instantiate(config).sparsity == Sparsity(assignment="modality", vision=0.25, cross=0.5)


def test_help_explains_every_option():
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    try:
        parser = jsonargparse.ArgumentParser()
        parser.add_class_arguments(Sparsity, "sparsity")
        text = parser.format_help()
    finally:
        jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=False)
    assert "Optimiser steps between two resets" in text
    assert not re.search(r"[A-Z}]\n\s+\(type", text), "an option without a description"
