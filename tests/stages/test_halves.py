"""Steps of two halves through the stage's own function, against the authors' training loop."""

from types import SimpleNamespace

import torch
from torch import nn

from cdvqa.stages.halves import first_half
from cdvqa.stages.optimisation import make_optimizer
from tests.objectives.baselines.branch import names
from tests.objectives.baselines.test_gge import PARTS, Model, objective_of
from tests.objectives.inputs import assert_close, double


def test_the_first_half_steps_the_branch_and_passes_its_clipped_gradient_on(golden, monkeypatch):
    arrays = golden("loss_gge")
    clip, lr = float(arrays["iter_clip"]), float(arrays["iter_lr"])
    sizes = len(arrays["iter_sd/q_emb.lin.bias"]), arrays["iter_target"].shape[2]
    objective = objective_of(arrays, "iter_sd/", sizes, "dq_iter")
    model = Model(arrays, objective)
    monkeypatch.setattr("cdvqa.stages.optimisation.Adamax", lambda groups: torch.optim.SGD(groups))
    optimizer = make_optimizer("adamax", [{"params": list(model.parameters()), "lr": lr}])
    monkeypatch.setattr("cdvqa.stages.halves.step_weight", lambda stage, counted, batch_idx: 1.0)
    strategy = SimpleNamespace(reduce=lambda tensor, reduce_op: tensor)
    trainer = SimpleNamespace(strategy=strategy, optimizers=[optimizer])
    stage = SimpleNamespace(trainer=trainer, objective=objective, objective_clip=clip, device=torch.device("cpu"))
    for batch, question in enumerate(arrays["iter_q"]):
        given = model(double(arrays["iter_v"][batch]), double(question))
        given |= {"soft_target": double(arrays["iter_target"][batch]), "prior": double(arrays["iter_p_b"][batch])}
        first = first_half(stage, given, batch)
        assert_close(first.terms["question"], arrays["iter_loss"][2 * batch])
        assert first.total.item() == 0 and all(parameter.grad is None for parameter in model.parameters())
        check(model, arrays, f"iter_after{2 * batch}/")
        second = objective(**given)
        assert_close(second.total, arrays["iter_loss"][2 * batch + 1])
        (second.total + first.total).backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), clip)
        assert_close(norm, arrays["iter_norm_before_clip"][2 * batch + 1])
        optimizer.step()
        check(model, arrays, f"iter_after{2 * batch + 1}/")


def check(model: Model, arrays, after: str) -> None:
    for ours, theirs in names("c_1", "c_2").items():
        assert_close(model.objective.branch.get_parameter(ours), arrays[after + theirs])
    for part in PARTS:
        for name, parameter in model.get_submodule(part.replace(".", "_")).named_parameters():
            assert_close(parameter, arrays[f"{after}{part}.{name}"])
