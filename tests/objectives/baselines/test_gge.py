"""GGE against the authors' own loss functions and their training loop."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cdvqa.errors import InputError
from cdvqa.objectives import Loss
from cdvqa.objectives.baselines.gge import GGE, pseudo_label
from tests.objectives.baselines.branch import check_gradients, fill, names
from tests.objectives.inputs import assert_close, double, given, made

MODES = {"d_bias": "d", "q_bias": "q", "tog": "dq", "q": "dq_iter", "joint": "dq_iter"}
CASES = ["c0", "c1", "c2"]
PARTS = ("q_emb.lin", "q_net", "v_net", "classifier")


def objective_of(arrays: dict[str, np.ndarray], prefix: str, sizes: tuple[int, int], mode: str) -> GGE:
    objective = GGE(*sizes, mode, len(arrays[f"{prefix}c_1.linears.0.bias"])).double()
    if mode != "d":
        fill(objective.branch, arrays, prefix, "c_1", "c_2")
    return objective


@pytest.mark.parametrize("kind", MODES)
@pytest.mark.parametrize("case", CASES)
def test_losses_and_gradients_equal_the_reference(golden, kind: str, case: str):
    arrays = golden("loss_gge")
    given = {"logits": double(arrays[f"{case}_logits"], grad=True), "question": double(arrays[f"{case}_q"], grad=True)}
    given |= {"soft_target": double(arrays[f"{case}_target"]), "prior": double(arrays[f"{case}_p_b"])}
    sizes = given["question"].shape[1], given["logits"].shape[1]
    objective = objective_of(arrays, f"{case}_sd/", sizes, MODES[kind])
    if kind == "q":
        assert objective.first is not None
        loss = objective.first(**given)
    else:
        loss = objective(**given)
    loss.total.backward()
    key = f"{case}_{kind}"
    assert_close(loss.total, arrays[f"{key}_loss"])
    assert loss.count == objective.counted(torch.full((len(given["logits"]),), -1)) == len(given["logits"])
    expected = arrays[f"{key}_grad_logits"]
    if kind == "q":
        assert given["logits"].grad is None and not expected.any()
    else:
        assert_close(given["logits"].grad, expected)
    assert given["question"].grad is None and not arrays[f"{key}_grad_q"].any()
    if MODES[kind] != "d":
        check_gradients(objective.branch, arrays, f"{key}_grad/", "c_1", "c_2")


@pytest.mark.parametrize("case", CASES)
def test_the_pseudo_label_equals_the_reference(golden, case: str):
    arrays = golden("loss_gge")
    grid = pseudo_label(double(arrays[f"{case}_grid_t"]), double(arrays[f"{case}_grid_b"]))
    np.testing.assert_allclose(grid, arrays[f"{case}_grid_pseudo"], atol=1e-9)
    found = pseudo_label(double(arrays[f"{case}_target"]), double(arrays[f"{case}_p_b"]))
    np.testing.assert_allclose(found, arrays[f"{case}_pseudo_p_b"], atol=1e-9)


def test_the_pseudo_label_is_the_negative_gradient_of_the_biases():
    """ŷ = −2 ∂L/∂b of L = log(1 + e^(−2tb)), whose sum over biases the ensemble descends."""
    target, bias = torch.rand(5, 6).double(), torch.randn(5, 6).double().requires_grad_()
    (gradient,) = torch.autograd.grad(torch.log1p(torch.exp(-2 * target * bias)).sum(), bias)
    torch.testing.assert_close(pseudo_label(target, bias), -gradient)


class Model(nn.Module):
    """The small model of the golden run: its question encoder is shared, and the branch sees it detached."""

    def __init__(self, arrays: dict[str, np.ndarray], objective: GGE) -> None:
        super().__init__()
        for part in PARTS:
            state = {kind: double(arrays[f"iter_sd/{part}.{kind}"]) for kind in ("weight", "bias")}
            layer = nn.Linear(*reversed(state["weight"].shape), dtype=torch.float64)
            layer.load_state_dict(state)
            self.add_module(part.replace(".", "_"), layer)
        self.objective = objective

    def forward(self, v: Tensor, q: Tensor) -> dict[str, Tensor]:
        question = torch.tanh(self.q_emb_lin(q))
        return {"logits": self.classifier(self.q_net(question) * self.v_net(v.mean(1))), "question": question}


def test_two_halves_of_a_step_are_those_of_the_authors_loop(golden):
    """The gradient of the second half is added to the clipped one of the first, and both are clipped together."""
    arrays = golden("loss_gge")
    questions, targets = arrays["iter_q"], arrays["iter_target"]
    sizes = arrays["iter_sd/q_emb.lin.bias"].shape[0], targets.shape[2]
    objective = objective_of(arrays, "iter_sd/", sizes, "dq_iter")
    assert objective.first is not None
    model, half = Model(arrays, objective), 0
    optimizer = torch.optim.SGD(model.parameters(), float(arrays["iter_lr"]))
    for batch in range(len(questions)):
        optimizer.zero_grad()
        for form in (objective.first, objective):
            given = model(double(arrays["iter_v"][batch]), double(questions[batch]))
            given |= {"soft_target": double(targets[batch]), "prior": double(arrays["iter_p_b"][batch])}
            loss: Loss = form(**given)
            loss.total.backward()
            assert_close(loss.total, arrays["iter_loss"][half])
            norm = nn.utils.clip_grad_norm_(model.parameters(), float(arrays["iter_clip"]))
            assert_close(norm, arrays["iter_norm_before_clip"][half])
            optimizer.step()
            after = f"iter_after{half}/"
            for ours, theirs in names("c_1", "c_2").items():
                assert_close(objective.branch.get_parameter(ours), arrays[after + theirs])
            for part in PARTS:
                for name, parameter in model.get_submodule(part.replace(".", "_")).named_parameters():
                    assert_close(parameter, arrays[f"{after}{part}.{name}"])
            half += 1


def test_each_mode_needs_what_it_uses_and_only_one_has_two_halves():
    modes = {mode: made("gge", mode=mode) for mode in ("d", "q", "dq", "dq_iter")}
    both = frozenset({"prior", "question"})
    assert {mode: objective.needs for mode, objective in modes.items()} == {
        "d": {"prior"}, "q": {"question"}, "dq": both, "dq_iter": both,
    }  # fmt: skip
    assert [mode for mode, objective in modes.items() if objective.first is not None] == ["dq_iter"]
    assert not list(modes["d"].parameters())
    for objective in modes.values():
        inputs = given(objective)
        assert objective.double()(**inputs).total.isfinite()
        for missing in objective.needs:
            with pytest.raises(ValueError, match=f"GGE needs `{missing}`"):
                objective(**inputs | {missing: None})
    with pytest.raises(InputError, match=r"objective_options\.mode both: expected one of d, q, dq, dq_iter"):
        made("gge", mode="both")
