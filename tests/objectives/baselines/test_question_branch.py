"""RUBi and LPF with the question-only branch of the originals, against the authors' own networks."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cdvqa.objectives import Loss, Objective, Output, Progress, make_objective
from tests.objectives.baselines.branch import check_gradients, fill
from tests.objectives.inputs import assert_close, double, given, made

VARIANTS: dict[str, tuple[str, Mapping[str, Any]]] = {
    "rubi": ("rubi_q", {}),
    "lpf_g1": ("lpf_q", {"gamma": 1.0}),
    "lpf_g2": ("lpf_q", {"gamma": 2.0}),
    "lpf_g5": ("lpf_q", {}),
    "lpf_ce": ("lpf_q", {"ce_epochs": 3}),
}
LATER = Progress(20, 60, 2, 6)  # in the third epoch
SHARED = {"rubi": ("rubi_q", {}), "lpf": ("lpf_q", {"gamma": 2.0})}


def objective_of(arrays: dict[str, np.ndarray], case: str, name: str, options: Mapping[str, Any]) -> Objective:
    width, question_size = arrays[f"{case}_sd/c_1.linears.0.weight"].shape
    answers = len(arrays[f"{case}_sd/c_2.bias"])
    objective = make_objective(name, 1, question_size=question_size, num_answers=answers, width=width, **options)
    fill(objective.double().branch, arrays, f"{case}_sd/", "c_1", "c_2")
    return objective


def form(objective: Objective, logits: Tensor, question: Tensor, label: np.ndarray) -> Loss:
    given = {"question": question, "label": torch.tensor(label), "progress": LATER}
    loss: Loss = objective(logits, torch.zeros_like(logits), **given)
    loss.total.backward()
    return loss


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("case", ["c0", "c1", "c2"])
def test_losses_and_gradients_equal_the_reference(golden, variant: str, case: str):
    arrays = golden("branch_rubi_lpf")
    objective = objective_of(arrays, case, *VARIANTS[variant])
    logits, question = double(arrays[f"{case}_logits"], grad=True), double(arrays[f"{case}_q"], grad=True)
    loss = form(objective, logits, question, arrays[f"{case}_label"])
    key = f"{case}_{variant}"
    assert_close(loss.total, arrays[f"{key}_loss"])
    assert_close(loss.terms["task"], arrays[f"{key}_loss_main"])
    assert_close(loss.terms["question"], arrays[f"{key}_loss_q"])
    assert_close(logits.grad, arrays[f"{key}_grad_logits"])
    assert question.grad is None and not arrays[f"{key}_grad_q"].any()
    check_gradients(objective.branch, arrays, f"{key}_grad/", "c_1", "c_2")
    assert_close(objective.scores(Output(logits, None, question=question)), arrays[f"{case}_test_scores"])


@pytest.mark.parametrize("name", SHARED)
def test_only_the_main_path_reaches_the_question_encoder(golden, name: str):
    arrays = golden("branch_rubi_lpf")
    objective = objective_of(arrays, "shared", *SHARED[name])
    net = {part: double(arrays[f"shared_sd/net.{part}"], grad=True) for part in ("enc.weight", "enc.bias")}
    net |= {part: double(arrays[f"shared_sd/net.{part}"], grad=True) for part in ("cls.weight", "cls.bias")}
    question = torch.tanh(double(arrays["shared_w"]) @ net["enc.weight"].T + net["enc.bias"])
    question.retain_grad()
    logits = (question * double(arrays["shared_v"])) @ net["cls.weight"].T + net["cls.bias"]
    loss = form(objective, logits, question, arrays["shared_label"])
    assert_close(loss.total, arrays[f"shared_{name}_loss"])
    assert_close(question.grad, arrays[f"shared_{name}_grad_q"])
    for part, tensor in net.items():
        assert_close(tensor.grad, arrays[f"shared_{name}_grad/net.{part}"])
    check_gradients(objective.branch, arrays, f"shared_{name}_grad/", "c_1", "c_2")


def test_lpf_weighs_nothing_in_its_first_epochs():
    inputs = given(made("lpf_q"))
    plain = made("lpf_q", gamma=0.0).double()(**inputs).total
    weighed = made("lpf_q").double()(**inputs).total
    for epoch, expected in ((0, plain), (1, plain), (2, weighed), (3, weighed)):
        objective = made("lpf_q", ce_epochs=2).double()
        found = objective(**inputs | {"progress": Progress(0, 8, epoch, 4)}).total
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert plain != weighed


@pytest.mark.parametrize("name", ["rubi_q", "lpf_q"])
def test_the_branch_is_as_wide_as_published(name: str):
    objective = make_objective(name, 1, question_size=7, num_answers=3)
    assert [tuple(p.shape) for n, p in objective.named_parameters() if n.endswith("weight")] == [
        (1024, 7), (1024, 1024), (3, 1024), (3, 3),
    ]  # fmt: skip
