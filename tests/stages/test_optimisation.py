"""Optimisers and schedule against formulas written a second time."""

from math import cos, pi

import pytest
import torch

from cdvqa.stages.optimisation import (
    AuthorsAdamW,
    epoch_cosine_schedule,
    epoch_schedule,
    linear_schedule,
    make_optimizer,
    warmup_steps,
)


@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_the_authors_adamw_does_not_scale_eps(decay: float):
    torch.manual_seed(0)
    scale = torch.tensor([1.0, 1e-2, 1e-4, 1e-6, 1e-8, 0.0], dtype=torch.float64)
    gradients = torch.randn(6, 6, dtype=torch.float64) * scale
    parameter = torch.nn.Parameter(torch.randn(6, dtype=torch.float64))
    expected, mean, square = parameter.detach().clone(), torch.zeros(6).double(), torch.zeros(6).double()
    optimizer = AuthorsAdamW([parameter], lr=5e-3, weight_decay=decay)
    for t, gradient in enumerate(gradients, 1):
        parameter.grad = gradient.clone()
        optimizer.step()
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        expected = expected - 5e-3 * (1 - 0.999**t) ** 0.5 / (1 - 0.9**t) * mean / (square**0.5 + 1e-8)
        expected = expected - 5e-3 * decay * expected
        torch.testing.assert_close(parameter.detach(), expected, rtol=0, atol=1e-12)
    # torch's AdamW differs where gradients are about as small as eps.
    torchs = torch.nn.Parameter(torch.zeros(6, dtype=torch.float64))
    ours = torch.nn.Parameter(torch.zeros(6, dtype=torch.float64))
    for parameter, kind in ((torchs, "adamw"), (ours, "authors_adamw")):
        parameter.grad = gradients[0].clone()
        make_optimizer(kind, [{"params": [parameter], "lr": 5e-3, "weight_decay": 0.0}]).step()
    assert (torchs - ours)[0].abs() < 1e-8 < (torchs - ours)[4].abs()


def test_its_state_survives_a_checkpoint():
    def steps(optimizer: AuthorsAdamW, parameter: torch.nn.Parameter, n: int) -> None:
        for _ in range(n):
            parameter.grad = torch.ones_like(parameter)
            optimizer.step()

    whole, split = torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(3))
    first = AuthorsAdamW([split], lr=0.1)
    steps(AuthorsAdamW([whole], lr=0.1), whole, 4)
    steps(first, split, 2)
    second = AuthorsAdamW([split], lr=0.1)
    second.load_state_dict(first.state_dict())
    steps(second, split, 2)
    assert torch.equal(whole, split)


@pytest.mark.parametrize("kind", ["adamw", "adam", "authors_adamw"])
def test_a_step_frees_the_gradients_and_counts_as_a_change(kind: str):
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = make_optimizer(kind, [{"params": [parameter], "lr": 0.1, "weight_decay": 0.0}])
    version = parameter._version
    parameter.grad = torch.ones(3)
    optimizer.step()
    assert parameter.grad is None
    assert parameter._version > version, "whoever caches by version must see it, fused or not"
    assert (parameter < 1).all()


def test_gradients_of_fp16_training_are_unscaled_before_clipping():
    parameter = torch.nn.Parameter(torch.zeros(3))
    optimizer = make_optimizer("adamw", [{"params": [parameter], "lr": 0.1, "weight_decay": 0.0}])
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(parameter.sum()).backward()
    assert not getattr(optimizer, "_step_supports_amp_scaling", False), "Lightning would leave it to the fused step"
    scaler.unscale_(optimizer)
    assert torch.equal(parameter.grad, torch.ones(3))
    scaler.step(optimizer)
    assert parameter.grad is None and (parameter < 0).all()


def test_schedule_rises_for_the_warmup_and_falls_to_zero():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = linear_schedule(optimizer, warmup=2, total=6)
    rates = []
    for _ in range(7):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == [0.0, 1.0, 2.0, 1.5, 1.0, 0.5, 0.0]


def test_warmup_is_a_share_or_a_number_of_steps():
    assert warmup_steps(0.25, 136_940) == 34_235 and warmup_steps(34_235, 100) == 34_235
    assert warmup_steps(0.0, 10) == 0 and warmup_steps(1, 10) == 1


def test_mplugs_schedule_has_a_rate_an_epoch_and_four_steps_of_warm_up_for_each_group():
    text, vision = torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1))
    groups = [
        {"params": [text], "lr": 3e-5, "weight_decay": 0.02},
        {"params": [vision], "lr": 5e-6, "weight_decay": 0.02},
    ]
    optimizer = make_optimizer("adamw", groups)
    schedule = epoch_cosine_schedule(optimizer, total=8 * 600, per_epoch=600)
    rates = []
    for _ in range(8 * 600):
        rates.append(schedule.get_last_lr())
        optimizer.step()
        schedule.step()
    assert rates[0] == rates[99] == pytest.approx([1e-5, 1e-5])
    assert rates[250] == pytest.approx([2e-5, 7.5e-6])
    assert rates[400] == rates[599] == pytest.approx([3e-5, 5e-6])
    for epoch in range(1, 8):
        share = (1 + cos(pi * epoch / 8)) / 2
        expected = pytest.approx([1e-6 + (3e-5 - 1e-6) * share, 1e-6 + (5e-6 - 1e-6) * share])
        assert rates[600 * epoch] == rates[600 * epoch + 599] == expected


def test_smrls_schedule_has_the_authors_rate_in_each_epoch():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=3e-4)
    schedule = epoch_schedule("epoch_steps", optimizer, total=3 * 26, per_epoch=3)
    rates = []
    for _ in range(3 * 26):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    # As their optimiser sets it at the start of each epoch.
    rising, rate = torch.linspace(0.5, 2.0, 7, dtype=torch.float64) * 3e-4, 0.0
    for epoch in range(26):
        if epoch < len(rising):
            rate = float(rising[epoch])
        elif epoch in range(14, 24, 2):
            rate *= 0.25
        assert rates[3 * epoch : 3 * epoch + 3] == pytest.approx([rate] * 3), epoch
    assert rates[3 * 7] == pytest.approx(6e-4) and rates[-1] == pytest.approx(6e-4 / 4**5)
