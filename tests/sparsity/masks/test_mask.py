"""The parametrization: forward and straight-through gradient against the authors' arrays and against autograd."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from cdvqa.sparsity import BinaryMask, FixedMask, select_threshold
from cdvqa.sparsity.selection.threshold import Rule


def masked(module, score, threshold=0.01):
    module.weight.requires_grad_(False)
    mask = BinaryMask(score, threshold)
    parametrize.register_parametrization(module, "weight", mask)
    return mask


def doubles(arrays):
    return {name: torch.from_numpy(array).double() for name, array in arrays.items() if array.dtype.kind == "f"}


@pytest.mark.parametrize("case", ["linear0", "linear1"])
def test_linear_is_the_authors(golden, case):
    arrays = doubles(golden("mask_forward"))
    layer = nn.Linear(36, 24).double()
    layer.load_state_dict({"weight": arrays[f"{case}_W"], "bias": arrays[f"{case}_b"]})
    mask = masked(layer, arrays[f"{case}_mhat"], float(arrays[f"{case}_threshold"]))
    inputs = arrays[f"{case}_x"].requires_grad_()
    outputs = layer(inputs)
    (outputs * arrays[f"{case}_upstream"]).sum().backward()
    torch.testing.assert_close(outputs, arrays[f"{case}_y"], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(mask.score.grad, arrays[f"{case}_grad_mhat"], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(inputs.grad, arrays[f"{case}_grad_x"], rtol=1e-9, atol=1e-12)
    assert layer.parametrizations.weight.original.grad is None


@pytest.mark.parametrize(("case", "threshold"), [("emb", None), ("emb2", 0.01)])
def test_embedding_is_the_authors(golden, case, threshold):
    raw = golden("mask_forward")
    arrays = doubles(raw)
    table = nn.Embedding(50, 8, padding_idx=int(raw["emb_padding_idx"])).double()
    table.load_state_dict({"weight": arrays[f"{case}_W"]})
    mask = masked(table, arrays[f"{case}_mhat"], threshold or float(arrays["emb_threshold"]))
    outputs = table(torch.from_numpy(raw["emb_ids"]))
    (outputs * arrays["emb_upstream"]).sum().backward()
    torch.testing.assert_close(outputs, arrays[f"{case}_y"], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(mask.score.grad, arrays[f"{case}_grad_mhat"], rtol=1e-9, atol=1e-12)
    assert (mask.score.grad[0] == 0).all(), "the padding row must not be trained"


def test_a_score_at_the_first_threshold_is_pruned(golden):
    arrays = golden("mask_forward")
    mask = BinaryMask(torch.from_numpy(arrays["boundary_mhat"]))
    kept = mask.mask(torch.ones(4))
    assert kept.float().tolist() == arrays["boundary_mask"].tolist()


def test_gradient_is_the_weight_times_the_gradient_of_the_masked_weight():
    torch.manual_seed(0)
    layer, inputs = nn.Linear(5, 4), torch.randn(3, 5)
    weight = layer.weight.detach().clone()
    mask = masked(layer, torch.rand(4, 5) * 0.02)
    torch.tanh(layer(inputs)).square().sum().backward()
    masked_weight = (weight * mask.mask(weight)).requires_grad_()
    torch.tanh(nn.functional.linear(inputs, masked_weight, layer.bias)).square().sum().backward()
    torch.testing.assert_close(mask.score.grad, weight * masked_weight.grad)
    assert (mask.score.grad[~mask.mask(weight)] != 0).all(), "pruned entries learn too"


def test_a_matrix_used_twice_sums_its_gradients():
    torch.manual_seed(0)
    layer, one, two = nn.Linear(5, 4), torch.randn(3, 5), torch.randn(3, 5)
    mask = masked(layer, torch.rand(4, 5) * 0.02)
    gradients = []
    for inputs in ([one], [two], [one, two]):
        mask.score.grad = None
        sum(layer(part).square().sum() for part in inputs).backward()
        gradients.append(mask.score.grad.clone())  # its memory is used again
    torch.testing.assert_close(gradients[0] + gradients[1], gradients[2])


def test_half_precision_weights_keep_fp32_scores():
    layer = nn.Linear(5, 4).bfloat16()
    mask = masked(layer, torch.rand(4, 5) * 0.02)
    layer(torch.randn(3, 5).bfloat16()).float().sum().backward()
    assert layer.weight.dtype == torch.bfloat16
    assert mask.score.grad.dtype == torch.float32


def test_state_dict_restores_the_very_mask():
    weight = torch.randn(9, 7, generator=torch.Generator().manual_seed(0)).round(decimals=1)
    score = torch.full((9, 7), 0.02)
    layer = nn.Linear(7, 9, bias=False)
    layer.load_state_dict({"weight": weight})
    mask = masked(layer, score)
    mask.follow(select_threshold(score, 0.4, weight).rules[0])
    kept = mask.mask(weight)
    assert int((~kept).sum()) == 25
    with torch.no_grad():
        mask.score.view(-1)[::5] += 0.01
    other = nn.Linear(7, 9, bias=False)
    masked(other, torch.zeros(9, 7))
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other.weight, layer.weight)
    assert torch.equal(other.weight != 0, mask.mask(weight) & (weight != 0))
    assert not torch.equal(mask.mask(weight), kept)


def test_infinite_thresholds_survive():
    layer = nn.Linear(3, 2)
    mask = masked(layer, torch.zeros(2, 3))
    mask.follow(Rule(float("-inf")))
    assert mask.mask(torch.ones(2, 3)).all()


def test_fixed_mask_holds_zeros_through_training():
    torch.manual_seed(0)
    layer = nn.Linear(6, 5)
    kept = torch.rand(5, 6) > 0.5
    parametrize.register_parametrization(layer, "weight", FixedMask(kept))
    original = layer.parametrizations.weight.original
    before = original.detach().clone()
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        layer(torch.randn(4, 6)).square().sum().backward()
        assert (original.grad[~kept] == 0).all()
        optimizer.step()
    assert (layer.weight[~kept] == 0).all()
    assert torch.equal(original[~kept], before[~kept])
    assert (original[kept] != before[kept]).all()


def test_a_frozen_weight_under_a_fixed_mask_is_masked_once():
    layer = nn.Linear(6, 5)
    layer.weight.requires_grad_(False)
    parametrize.register_parametrization(layer, "weight", FixedMask(torch.rand(5, 6) > 0.5))
    mask, original = layer.parametrizations.weight[0], layer.parametrizations.weight.original
    assert layer.weight.data_ptr() == layer.weight.data_ptr() != original.data_ptr()
    mask.kept.logical_not_()
    assert torch.equal(layer.weight, torch.where(mask.kept, original, 0))
    original.mul_(2)
    assert torch.equal(layer.weight, torch.where(mask.kept, original, 0))
