"""Distillation from a debiased teacher, against the authors' own functions."""

import pytest
import torch

from cdvqa.errors import InputError
from cdvqa.objectives import BCE, LMH, Output
from cdvqa.objectives.baselines.introd import IntroD, introspect
from tests.objectives.inputs import assert_close, double

CASES = ["l0", "l1", "l2"]


def trained_lmh(arrays, case) -> LMH:
    lmh = LMH(arrays[f"{case}_h"].shape[1]).double()
    lmh.load_state_dict({
        "linear.weight": double(arrays[f"{case}_w"]),
        "linear.bias": double(arrays[f"{case}_b"]),
        "smoothing": double(arrays[f"{case}_smooth_param"]),
    })  # fmt: skip
    return lmh.requires_grad_(False)


@pytest.mark.parametrize("case", CASES)
def test_weights_and_both_losses_equal_the_reference(golden, case):
    arrays = golden("introd")
    logits = double(arrays[f"{case}_student_logits"], grad=True)
    names = ("target", "teacher_debiased_logits", "teacher_ensemble_logits")
    weight, distilled, taught = introspect(logits, *(double(arrays[f"{case}_{name}"]) for name in names))
    assert_close(weight, arrays[f"{case}_weight"])
    assert_close(distilled, arrays[f"{case}_loss_kl"])
    assert_close(taught, arrays[f"{case}_loss_hard"])
    loss = (weight * distilled + (1 - weight) * taught).mean()
    loss.backward()
    assert_close(loss, arrays[f"{case}_loss"])
    assert_close(logits.grad, arrays[f"{case}_grad_student_logits"])


@pytest.mark.parametrize("case", CASES[:2])  # the authors' ensemble of the third overflows
def test_the_ensemble_is_that_of_the_teachers_own_objective(golden, case):
    arrays = golden("introd")
    debiased, prior, hidden = (double(arrays[f"{case}_{name}"]) for name in ("teacher_debiased_logits", "p_b", "h"))
    lmh, objective = trained_lmh(arrays, case), IntroD()
    assert_close(lmh.ensemble(debiased, prior, hidden), arrays[f"{case}_teacher_ensemble_logits"])
    objective.take_teacher(lambda: lmh)
    assert not list(objective.parameters()), "the teacher is neither trained nor saved"
    logits, target = double(arrays[f"{case}_student_logits"], grad=True), double(arrays[f"{case}_target"])
    loss = objective(logits, target, prior=prior, teacher=Output(debiased, hidden))
    loss.total.backward()
    assert_close(loss.total, arrays[f"{case}_loss"])
    assert_close(logits.grad, arrays[f"{case}_grad_student_logits"])
    assert sum(loss.terms.values()).item() == pytest.approx(loss.total.item(), rel=1e-12)


def test_a_question_that_both_are_sure_of_has_a_weight():
    """The authors' code for the other teachers divides 0 by 0 here."""
    target = torch.tensor([[1.0, 0.0]]).double()
    sure = torch.tensor([[800.0, -800.0]]).double()
    weight, distilled, taught = introspect(torch.zeros(1, 2).double(), target, sure, sure)
    assert weight.item() == 0.5 and distilled.isfinite().all() and taught.isfinite().all()


def test_another_teacher_is_refused():
    with pytest.raises(InputError, match=r"introd learns from a run trained with lmh.* was trained with BCE"):
        IntroD().take_teacher(BCE)
