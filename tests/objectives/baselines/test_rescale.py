"""Loss re-scaling against the authors' functions, and against weights computed answer by answer."""

import math

import pytest
import torch

from cdvqa.errors import InputError
from cdvqa.objectives import BCE, CE
from tests.objectives.inputs import assert_close, cases, double, made, table


@pytest.mark.parametrize("form", ["bce", "ce"])
def test_both_forms_equal_the_authors(golden, monkeypatch, form):
    arrays = golden("loss_rescaling")
    for case in cases(arrays, "_ce_loss"):
        objective, logits = made("rescale", form=form), double(arrays[f"{case}_logits"], grad=True)
        weight = double(arrays[f"{case}_weight"])
        monkeypatch.setattr(objective, "weights", lambda counts, weight=weight: weight)
        loss = objective(logits, double(arrays[f"{case}_target"]), counts=weight)
        loss.total.backward()
        assert_close(loss.total, arrays[f"{case}_{form}_loss"])
        assert_close(logits.grad, arrays[f"{case}_{form}_grad_logits"])


@pytest.mark.parametrize("form", ["bce", "ce"])
def test_the_authors_samples_are_reproduced_from_their_annotations(golden, form):
    arrays = golden("loss_rescaling")
    counts, target = table(arrays)
    objective, logits = made("rescale", form=form), double(arrays["table_logits"], grad=True)
    assert_close(objective.weights(counts), arrays["table_weight_fixed"])
    objective(logits, target, counts=counts).total.backward()
    assert_close(objective(logits, target, counts=counts).total, arrays[f"table_{form}_fixed_loss"])
    assert_close(logits.grad, arrays[f"table_{form}_fixed_grad_logits"])


def test_without_weights_the_forms_are_bce_and_a_tenth_of_ce(golden):
    arrays = golden("loss_rescaling")
    target = double(arrays["table_target"])
    for form, plain, share in (("bce", BCE(), 1.0), ("ce", CE(), 0.1)):
        logits = double(arrays["table_logits"], grad=True)
        loss = share * plain(logits, target).total
        loss.backward()
        assert_close(loss, arrays[f"table_{form}_plain_loss"])
        assert_close(logits.grad, arrays[f"table_{form}_plain_grad_logits"])


def test_weights_are_those_of_the_formula_and_the_first_answer_is_like_any_other():
    rows = [[30, 10, 9, 0, 60], [0, 0, 12, 0, 0], [9, 9, 9, 9, 9], [2000, 10, 0, 0, 0]]
    expected = []
    for row in rows:
        total = sum(n for n in row if n >= 10)
        weights = [min(math.log1p(math.exp((total - n) / max(n, 1))), 100) if n >= 10 else 1 + math.log(2) for n in row]
        expected.append(weights)
    assert expected[1][2] == math.log(2) and expected[3][1] == 100
    counts = torch.tensor(rows).double()
    assert_close(made("rescale").weights(counts), expected)
    few = made("rescale", min_count=5).weights(counts)
    assert_close(few[2], [math.log1p(math.exp(4))] * 5)


def test_rare_answers_weigh_more_and_only_where_they_are_right():
    logits, counts = torch.zeros(1, 2, dtype=torch.float64), torch.tensor([[90.0, 10.0]]).double()
    loss = {right: made("rescale")(logits, torch.eye(2)[[right]].double(), counts=counts).total for right in (0, 1)}
    weights = [math.log1p(math.exp(10 / 90)), math.log1p(math.exp(9))]
    for right, weight in enumerate(weights):
        assert_close(loss[right], (weight + 1) * math.log(2))


def test_another_form_is_refused():
    with pytest.raises(InputError, match=r"--model\.objective_options\.form mse: expected one of bce, ce"):
        made("rescale", form="mse")
