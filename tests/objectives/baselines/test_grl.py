"""Gradient reversal against the authors' own network and training loop."""

import numpy as np
import pytest
import torch
from torch import nn

from cdvqa.objectives import Progress
from cdvqa.objectives.baselines.grl import GRL
from tests.objectives.inputs import assert_close, double

CASES = ["c0", "c1", "c2"]
FIRST = Progress(0, 100, 0, 1)


class Reads(nn.Module):
    """The authors' network without its image encoder: q = tanh(w), x = classifier(q · v)."""

    def __init__(self, arrays: dict[str, np.ndarray], case: str) -> None:
        super().__init__()
        weights = {name: arrays[f"{case}_sd/{name}.weight"] for name in ("e.lin", "cls")}
        self.e = nn.ModuleDict({"lin": nn.Linear(*weights["e.lin"].shape[::-1])})
        self.cls = nn.Linear(*weights["cls"].shape[::-1])
        for name, parameter in self.named_parameters():
            parameter.data = double(arrays[f"{case}_sd/{name}"])

    def forward(self, words, regions):
        question = self.e["lin"](words).tanh()
        question.retain_grad()
        return question, self.cls(question * regions)


def adversarial(arrays: dict[str, np.ndarray], case: str) -> GRL:
    width, size = arrays[f"{case}_sd/adv.main.0.weight"].shape
    answers = len(arrays[f"{case}_sd/adv.main.2.weight"])
    objective = GRL(size, answers, float(arrays[f"{case}_lambda_q"]), width).double()
    for name, parameter in objective.adversary.named_parameters():
        parameter.data = double(arrays[f"{case}_sd/adv.main.{name}"])
    return objective


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("factor", [0, -0.37, -1])
def test_the_gradient_of_the_adversary_is_reversed_behind_it_alone(golden, monkeypatch, case, factor):
    arrays = golden("grl")
    network, objective = Reads(arrays, case), adversarial(arrays, case)
    monkeypatch.setattr(objective, "reversal", lambda step: factor)
    words, regions, target = (double(arrays[f"{case}_{name}"]) for name in ("w", "v", "target"))
    question, logits = network(words, regions)
    loss = objective(logits, target, question=question, progress=FIRST)
    assert_close(question, arrays[f"{case}_q"])
    assert_close(loss.terms["task"], arrays[f"{case}_main_loss"])
    assert_close(loss.terms["adversary"], arrays[f"{case}_lambda{factor}_adv_loss"])
    loss.total.backward()
    key = f"{case}_lambda{factor}_grad"
    assert_close(question.grad, arrays[f"{case}_main_grad_q"] + arrays[f"{key}_q"])
    for name, parameter in network.named_parameters():
        reversed_ = arrays.get(f"{key}/{name}", np.zeros(()))  # the classifier gets nothing from the adversary
        assert_close(parameter.grad, arrays[f"{case}_main_grad/{name}"] + reversed_)
    for name, parameter in objective.adversary.named_parameters():
        assert_close(parameter.grad, arrays[f"{key}/adv.main.{name}"])


@pytest.mark.parametrize("case", CASES)
def test_the_authors_two_steps_follow_from_its_terms(golden, case):
    """They step on the main loss, then compute the adversary's loss again and step on that."""
    arrays = golden("grl")
    network, objective = Reads(arrays, case), adversarial(arrays, case)
    words, regions, target = (double(arrays[f"{case}_{name}"]) for name in ("w", "v", "target"))
    lr, clip = float(arrays[f"{case}_lr"]), float(arrays[f"{case}_clip"])
    for term, key in (("task", "step_main"), ("adversary", "step_adv")):
        question, logits = network(words, regions)
        trained = dict(network.named_parameters())
        if term == "adversary":
            trained = {f"e.lin.{name}": parameter for name, parameter in network.e["lin"].named_parameters()}
            trained |= {f"adv.main.{name}": parameter for name, parameter in objective.adversary.named_parameters()}
        for parameter in trained.values():
            parameter.grad = None
        objective(logits, target, question=question, progress=FIRST).terms[term].backward()
        nn.utils.clip_grad_norm_(trained.values(), clip)
        torch.optim.SGD(trained.values(), lr).step()
        for name, parameter in trained.items():
            assert_close(parameter, arrays[f"{case}_{key}/{name}"])


def test_the_reversal_ramps_up(golden):
    arrays = golden("grl")
    for ramp in ("ramp0", "ramp1"):
        objective = GRL(3, 4, start=int(arrays[f"{ramp}_start"]), ramp=int(arrays[f"{ramp}_steps"]))
        factors = [objective.reversal(int(step)) for step in arrays[f"{ramp}_iter"]]
        np.testing.assert_allclose(factors, arrays[f"{ramp}_multiplier"], atol=1e-12)
