"""CF-VQA against the authors' own network and criterion."""

import numpy as np
import pytest
import torch

from cdvqa.errors import InputError
from cdvqa.objectives import Output, make_objective
from cdvqa.objectives.baselines.cf_vqa import CFVQA
from tests.objectives.baselines.branch import check_gradients, fill
from tests.objectives.inputs import assert_close, double, given, made

BRANCHES = {"question": "q", "vision": "v"}


def objective_of(arrays: dict[str, np.ndarray], case: str, fusion: str, vision: bool) -> CFVQA:
    sizes = {f"{name}_size": arrays[f"{case}_{key}"].shape[1] for name, key in BRANCHES.items()}
    sizes |= {"num_answers": arrays[f"{case}_logits"].shape[1], "width": len(arrays[f"{case}_sd/q_1.linears.0.bias"])}
    objective = CFVQA(**sizes, fusion=fusion, vision=vision).double()
    for name, branch in objective.branches.items():
        fill(branch, arrays, f"{case}_sd/", f"{BRANCHES[name]}_1", f"{BRANCHES[name]}_2")
    torch.nn.init.constant_(objective.constant, float(arrays[f"{case}_constant"]))
    return objective


@pytest.mark.parametrize("vision", [True, False])
@pytest.mark.parametrize("fusion", ["sum", "hm"])
@pytest.mark.parametrize("case", ["c0", "c1", "c2"])
def test_losses_gradients_and_scores_equal_the_reference(golden, case: str, fusion: str, vision: bool):
    arrays = golden("loss_cfvqa")
    objective = objective_of(arrays, case, fusion, vision)
    logits = double(arrays[f"{case}_logits"], grad=True)
    seen = {name: double(arrays[f"{case}_{BRANCHES[name]}"], grad=True) for name in objective.branches}
    loss = objective(logits, torch.zeros_like(logits), label=torch.tensor(arrays[f"{case}_label"]), **seen)
    loss.total.backward()
    key = f"{case}_{fusion}_{'v' if vision else 'nov'}"
    assert_close(loss.total, arrays[f"{key}_loss"])
    published = {"task": "fusion", "question": "q", "vision": "v", "constant": "kl"}
    assert loss.terms.keys() == published.keys() - (set() if vision else {"vision"})
    for term, value in loss.terms.items():
        assert_close(value, arrays[f"{key}_loss_{published[term]}"])
    assert_close(logits.grad, arrays[f"{key}_grad_logits"])
    assert_close(objective.constant.grad, arrays[f"{key}_grad/constant"])
    for name, branch in objective.branches.items():
        letter = BRANCHES[name]
        assert seen[name].grad is None and not arrays[f"{key}_grad_{letter}"].any()
        check_gradients(branch, arrays, f"{key}_grad/", f"{letter}_1", f"{letter}_2")
    assert_close(objective.scores(Output(logits, None, **seen)), arrays[f"{key}_tie"])


@pytest.mark.parametrize("vision", [True, False])
def test_what_ships_is_what_the_scores_depend_on(vision: bool):
    objective = made("cf_vqa", vision=vision).double()
    inputs = given(objective)
    assert objective.needs == {"label", "question"} | ({"vision"} if vision else set())
    output = Output(inputs["logits"], None, question=inputs["question"], vision=inputs["vision"])
    (objective.scores(output) ** 2).sum().backward()
    used = {name for name, parameter in objective.named_parameters() if parameter.grad is not None}
    assert used == {name for name, _ in objective.named_parameters() if objective.ships(name)}
    assert "constant" in used and "branches.question.bias.0.weight" in used
    assert ("branches.vision.bias.0.weight" in used) == vision


def test_scores_of_half_precision_outputs_do_not_tie():
    """σ(9) and σ(10) are the same number in bf16."""
    objective = made("cf_vqa")
    inputs = given(objective, torch.float32, rows=2)
    for parameter in objective.parameters():
        torch.nn.init.zeros_(parameter)  # so that x alone decides
    seen = {name: inputs[name].bfloat16() for name in ("question", "vision")}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (scores, _) = objective.scores(Output(torch.tensor([[9.0, 10.0, 11.0, 12.0]] * 2).bfloat16(), None, **seen))
    assert scores.dtype == torch.float32 and (scores.diff() > 0).all()


def test_an_unknown_fusion_is_refused():
    with pytest.raises(InputError, match=r"objective_options\.fusion product: expected one of sum, hm"):
        made("cf_vqa", fusion="product")


def test_the_branches_are_as_wide_as_published():
    objective = make_objective("cf_vqa", 1, question_size=7, vision_size=9, num_answers=3)
    shapes = {name: tuple(p.shape) for name, p in objective.named_parameters() if name.endswith("bias.0.weight")}
    assert shapes == {"branches.question.bias.0.weight": (1024, 7), "branches.vision.bias.0.weight": (1024, 9)}
    assert objective.constant.item() == 0
