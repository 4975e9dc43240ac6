"""Every objective against the authors' own functions, and against the formula written a second time."""

import inspect
from typing import Any, Literal, Optional

import numpy as np
import pytest
import torch

from cdvqa.distributed.processes import map_nested
from cdvqa.errors import InputError
from cdvqa.objectives import (
    BCE,
    CE,
    LMH,
    LPF,
    OBJECTIVES,
    Loss,
    Objective,
    Output,
    Progress,
    RUBi,
    make_objective,
)
from cdvqa.objectives.objective import LabelledObjective
from tests.objectives.inputs import assert_close, cases, double, given, made


@pytest.mark.parametrize(("file", "objective"), [("loss_bce", BCE()), ("loss_visualbert_softce", CE())])
def test_plain_objectives_equal_the_reference(golden, file, objective):
    arrays = golden(file)
    for case in cases(arrays, "_target"):
        logits = double(arrays[f"{case}_logits"], grad=True)
        loss = objective(logits, double(arrays[f"{case}_target"]))
        loss.total.backward()
        assert_close(loss.total, arrays[f"{case}_loss"])
        assert_close(logits.grad, arrays[f"{case}_grad_logits"])


def reference_lmh(arrays: dict[str, np.ndarray], case: str) -> LMH:
    w = arrays[f"{case}_w"]
    objective = LMH(w.shape[1], entropy_weight=float(arrays[f"{case}_entropy_weight"])).double()
    with torch.no_grad():
        objective.linear.weight.copy_(double(w))
        objective.linear.bias.copy_(double(arrays[f"{case}_b"]))
        objective.smoothing.fill_(float(arrays[f"{case}_smooth_param"]))
    return objective


def test_lmh_equals_the_reference_with_all_its_gradients(golden):
    arrays = golden("loss_lmh")
    for case in cases(arrays, "_p_b"):
        objective = reference_lmh(arrays, case)
        logits, hidden = double(arrays[f"{case}_logits"], grad=True), double(arrays[f"{case}_h"], grad=True)
        loss = objective(logits, double(arrays[f"{case}_target"]), double(arrays[f"{case}_p_b"]), hidden)
        loss.total.backward()
        assert_close(loss.total, arrays[f"{case}_loss"])
        assert_close(loss.terms["task"], arrays[f"{case}_loss_no_entropy"])
        assert_close(logits.grad, arrays[f"{case}_grad_logits"])
        assert_close(hidden.grad, arrays[f"{case}_grad_h"])
        assert_close(objective.linear.weight.grad, arrays[f"{case}_grad_w"])
        assert_close(objective.linear.bias.grad, arrays[f"{case}_grad_b"])
        assert_close(objective.smoothing.grad, arrays[f"{case}_grad_smooth_param"])


def test_lmh_is_the_binary_product_of_experts_it_says():
    torch.manual_seed(0)
    logits, target, prior = torch.randn(3, 4).double(), torch.rand(3, 4).double(), torch.rand(3, 4).double()
    hidden, objective = torch.randn(3, 8).double(), LMH(8).double()
    gate, smoothing = objective.gate(hidden), objective.smoothing.sigmoid()
    yes, no = (prior + smoothing) ** gate, (1 - prior + smoothing) ** gate
    q = logits.sigmoid() * yes / (logits.sigmoid() * yes + (1 - logits.sigmoid()) * no)
    r = yes / (yes + no)
    task = -(target * q.log() + (1 - target) * (1 - q).log()).sum() / 3
    entropy = -(r * r.log() + (1 - r) * (1 - r).log()).mean()
    assert_close(objective(logits, target, prior, hidden).total, (task + 0.36 * entropy).detach().numpy())


def test_poe_is_lmh_with_gate_1_and_no_entropy(golden, monkeypatch):
    arrays = golden("loss_lmh")
    monkeypatch.setattr(LMH, "gate", lambda self, hidden: torch.ones(len(hidden), 1, dtype=hidden.dtype))
    for case in cases(arrays, "_p_b"):
        given = [double(arrays[f"{case}_{name}"]) for name in ("target", "p_b")]
        hidden, logits = double(arrays[f"{case}_h"]), double(arrays[f"{case}_logits"], grad=True)
        wanted = LMH(hidden.shape[1], entropy_weight=0.0).double()(logits, *given, hidden).total
        poe = make_objective("poe", 1)(logits, *given).total
        assert_close(poe, wanted.detach().numpy())
        (gradient,), (expected,) = torch.autograd.grad(poe, logits), torch.autograd.grad(wanted, logits)
        assert_close(gradient, expected.numpy())


def test_frozen_lmh_has_nothing_to_train():
    assert not any(parameter.requires_grad for parameter in LMH(8, trainable=False).parameters())
    assert all(parameter.requires_grad for parameter in LMH(8).parameters())


@pytest.mark.parametrize("gamma", [0, 1, 2, 5])
def test_lpf_equals_the_reference(golden, gamma):
    arrays = golden("loss_lpf")
    for case in cases(arrays, "_label"):
        logits = double(arrays[f"{case}_logits"], grad=True)
        label, prior = torch.tensor(arrays[f"{case}_label"]), double(arrays[f"{case}_p_b"])
        loss = LPF(gamma)(logits, torch.zeros_like(logits), prior, label=label)
        loss.total.backward()
        assert_close(loss.total, arrays[f"{case}_g{gamma}_loss"])
        assert_close(logits.grad, arrays[f"{case}_g{gamma}_grad_logits"])


def test_rubi_equals_the_reference(golden):
    arrays = golden("loss_rubi")
    for case in cases(arrays, "_label"):
        logits = double(arrays[f"{case}_logits"], grad=True)
        label, prior = torch.tensor(arrays[f"{case}_label"]), double(arrays[f"{case}_p_b"])
        loss = RUBi()(logits, torch.zeros_like(logits), prior, label=label)
        loss.total.backward()
        assert_close(loss.total, arrays[f"{case}_loss"])
        assert_close(logits.grad, arrays[f"{case}_grad_logits"])


@pytest.mark.parametrize("name", [name for name, kind in OBJECTIVES.items() if issubclass(kind, LabelledObjective)])
def test_questions_without_a_label_do_not_count(name):
    objective = made(name).double()
    inputs = given(objective, rows=4) | {"label": torch.tensor([2, -1, 0, -1])}
    kept = {key: value[[0, 2]] if isinstance(value, torch.Tensor) else value for key, value in inputs.items()}
    loss, alone = objective(**inputs), objective(**kept)
    assert loss.count == alone.count == objective.counted(inputs["label"]) == 2
    for term, value in loss.terms.items():
        torch.testing.assert_close(value, alone.terms[term], rtol=1e-12, atol=0)
    logits = inputs["logits"].requires_grad_()
    none = objective(**inputs | {"label": torch.full((4,), -1)})
    none.total.backward()
    assert none.total.item() == 0 and none.count == 0
    assert not any(tensor.grad.any() for tensor in (logits, *objective.parameters()))


NEEDS = {
    "bce": set(),
    "ce": set(),
    "lmh": {"prior", "hidden"},
    "rubi": {"prior", "label"},
    "lpf": {"prior", "label"},
    "poe": {"prior"},
    "rubi_q": {"question", "label"},
    "lpf_q": {"question", "label", "progress"},
    "cf_vqa": {"question", "vision", "label"},
    "gge": {"question", "prior"},
    "mmbs": {"prior", "hidden", "views"},
    "grl": {"question", "progress"},
    "introd": {"prior", "teacher"},
    "genb_lite": {"teacher"},
    "rescale": {"counts"},
    "margin_cosine": {"counts"},
    "rmlvqa": {"hidden", "label", "counts", "progress"},
}


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_input_dtype_is_kept_and_missing_input_is_named(name, dtype):
    objective = made(name).to(dtype)
    inputs = given(objective, dtype)
    loss = objective(**inputs)
    assert loss.total.dtype == dtype and loss.total.shape == ()
    assert "task" in loss.terms and all(term.dtype == dtype for term in loss.terms.values())
    torch.testing.assert_close(torch.stack(list(loss.terms.values())).sum(), loss.total)
    assert loss.count == objective.counted(inputs["label"]) and objective.needs == NEEDS[name]
    for missing in objective.needs:
        with pytest.raises(ValueError, match=f"{type(objective).__name__} needs `{missing}`"):
            objective(**inputs | {missing: None})


@pytest.mark.parametrize("name", OBJECTIVES)
def test_one_question_alone_is_a_batch(name):
    """Defect: mmbs normalised over the batch, and the last batch of an epoch may hold a single question."""
    objective = made(name).double()
    inputs = map_nested(given(objective, rows=2), lambda tensor: tensor[:1].detach().clone())
    logits, hidden = (inputs[key].requires_grad_() for key in ("logits", "hidden"))
    loss = objective(**inputs)
    loss.total.backward()
    assert loss.total.isfinite() and logits.grad.isfinite().all()
    assert hidden.grad is None or hidden.grad.isfinite().all()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_no_branch_teaches_the_backbone(name):
    """Not even if a backbone hands on its question or its image with their graph; an adversary alone is to."""
    objective = made(name).double()
    inputs = given(objective)
    seen = {key: inputs[key].detach().requires_grad_() for key in ("logits", "question", "vision")}
    objective(**inputs | seen).total.backward()
    assert seen["logits"].grad.any() and seen["vision"].grad is None
    assert (seen["question"].grad is not None) == objective.trains_question == (name == "grl")


def test_signatures_are_those_others_script_against():
    known = ["logits", "soft_target", "prior", "hidden", "label", "question", "vision", "counts", "teacher", "views"]
    assert list(inspect.signature(Objective.forward).parameters) == ["self", *known, "progress"]
    assert Output._fields == ("logits", "hidden", "sequence", "question", "vision")
    assert Output(None, None) == Output(None, None, None, None, None)
    assert Loss._fields[:3] == ("total", "terms", "count")
    assert Progress._fields == ("step", "steps", "epoch", "epochs")
    assert inspect.signature(LMH).parameters["entropy_weight"].default == 0.36
    assert inspect.signature(LMH).parameters["trainable"].default is True
    assert inspect.signature(LPF).parameters["gamma"].default == 5
    assert LMH(4).smoothing.item() == -1 and LMH(4).linear.weight.shape == (1, 4)
    assert "sigmoid of a softmax" in " ".join(str(LMH.__doc__).split()), "why Eqs. 5-6 are not read literally"


def test_evaluation_ranks_the_logits_unless_the_objective_says_otherwise():
    others = set()
    for name in OBJECTIVES:
        objective = made(name).double()
        inputs = given(objective)
        output = Output(**{key: inputs[key] for key in ("logits", "hidden", "question", "vision")})
        if objective.scores(output) is not output.logits:
            others.add(name)
    assert others == {"cf_vqa", "rmlvqa"}


def test_unknown_names_and_options_are_refused():
    with pytest.raises(InputError, match=f"'focal' is unknown; use one of {', '.join(OBJECTIVES)}"):
        make_objective("focal", 4)
    with pytest.raises(InputError, match="bce does not take gamma"):
        make_objective("bce", 4, gamma=2)


class Own(Objective):
    def __init__(self, depth: Optional[int] = None, form: Literal["a", "b"] | float = "a", table: dict | None = None):
        super().__init__()

    def loss(self, logits, soft_target): ...


@pytest.mark.parametrize(
    ("name", "option", "value", "wanted"),
    [
        ("lpf", "gamma", "two", "a number"),
        ("lpf", "gamma", True, "a number"),
        ("lpf", "gamma", -3, "0 or more"),
        ("lpf_q", "gamma", float("nan"), "0 or more"),
        ("lmh", "trainable", "perhaps", "true or false"),
        ("lmh", "trainable", 1, "true or false"),
        ("rubi_q", "width", 3.5, "a whole number"),
        (f"{__name__}.Own", "depth", "two", "a whole number"),
        (f"{__name__}.Own", "form", "c", "one of a, b or a number"),
        (f"{__name__}.Own", "table", 1, "a mapping"),
    ],
)
def test_a_value_of_another_type_is_refused(name: str, option: str, value: Any, wanted: str):
    """Text for a number ended the first step with a traceback, and a negative exponent trained."""
    with pytest.raises(InputError, match=rf"^--model\.objective_options\.{option} {value}: expected {wanted}$"):
        make_objective(name, 4, question_size=3, num_answers=2, **{option: value})


def test_what_an_annotation_allows_is_taken():
    make_objective("lpf", 4, gamma=2)
    for options in ({"depth": None}, {"depth": 2}, {"form": "b"}, {"form": 1}, {"table": {"a": 1}}):
        make_objective(f"{__name__}.Own", 4, **options)
    with pytest.raises(InputError, match=r"bce does not take args \(it takes: none\)"):
        make_objective("bce", 4, args=1)


def test_sequences_are_summed_over_pieces_and_weighed_by_share_and_prior():
    torch.manual_seed(0)
    logits = torch.randn(3, 4, 7, dtype=torch.float64)
    target = torch.tensor([[1, 2, 6, 6], [3, 6, 6, -100], [5, 4, 6, 6]])
    weight, prior = torch.tensor([0.6, 0.4, 1.0]).double(), torch.tensor([0.5, 0.0, 1.0]).double()
    expected = []
    for scores, pieces in zip(logits, target, strict=True):
        probabilities = scores.exp() / scores.exp().sum(1, keepdim=True)
        expected.append(-sum(probabilities[i, piece].log() for i, piece in enumerate(pieces.tolist()) if piece >= 0))
    whole = (0.6 * expected[0] + 0.4 * expected[1] + expected[2]) / 2
    torch.testing.assert_close(make_objective("ce", 4).sequence(logits, target, weight, prior, 2).total, whole)
    lpf = make_objective("lpf", 4, gamma=1.0).sequence(logits, target, weight, prior, 2)
    torch.testing.assert_close(lpf.total, (0.6 * 0.5 * expected[0] + 0.4 * expected[1]) / 2)
    assert list(lpf.terms) == ["task"]


@pytest.mark.parametrize("name", sorted(OBJECTIVES.keys() - {"ce", "lpf"}))
def test_objectives_over_a_vocabulary_refuse_sequences(name):
    with pytest.raises(ValueError, match="not over word pieces"):
        made(name).sequence(*torch.zeros(4, 1, 1, 1), questions=1)
