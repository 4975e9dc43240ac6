"""What picks the first mask."""

from pathlib import Path

import pytest
import torch

from cdvqa.errors import InputError
from cdvqa.sparsity import Criterion, Subnetwork, attach_masks, masks, one_shot_masks
from cdvqa.sparsity.criteria import FirstOrder
from tests.sparsity.reference import zeros_asked
from tests.sparsity.toy import DEAD, GROUPS, NAMES, Toy

SHARES = dict.fromkeys(GROUPS, 0.5)


class Given(Criterion):
    def __init__(self, importance):
        self.given = importance

    def importance(self, weights, gradients):
        return self.given


def gradients(count=3):
    generator = torch.Generator().manual_seed(0)
    weights = dict(Toy().named_parameters())
    return [{n: torch.randn(weights[n].shape, generator=generator) for n in NAMES} for _ in range(count)]


def test_first_order_takes_sixteen_batches_by_default():
    assert (FirstOrder().batches, FirstOrder(2).batches) == (16, 2)


def test_first_order_keeps_the_largest_products_of_weight_and_mean_gradient():
    model, batches = Toy(), gradients()
    kept = one_shot_masks(model, GROUPS, SHARES, criterion=FirstOrder(3), gradients=batches, dead=DEAD)
    magnitude = one_shot_masks(model, GROUPS, SHARES, dead=DEAD)
    for name, mask in kept.items():
        weight = model.get_parameter(name).detach()
        importance = (weight * sum(batch[name] for batch in batches) / 3).abs()
        assert int((~mask).sum()) == zeros_asked("0.5", mask.numel())
        if name in DEAD:
            assert torch.equal(mask, magnitude[name])
        else:
            assert importance[mask].min() >= importance[~mask].max()
    attach_masks(model, GROUPS, SHARES, criterion=FirstOrder(3), gradients=batches, dead=DEAD)
    assert all(torch.equal(mask, kept[name]) for name, mask in masks(model).items())


@pytest.mark.parametrize("tie_break", ["exact", "strict"])
def test_equal_importance_goes_by_magnitude_and_costs_no_extra_zeros(tie_break):
    """Word embeddings that no question reads have no gradient: `strict` alone would prune all of them."""
    model = Toy()
    same = Given({name: torch.zeros_like(model.get_parameter(name)) for name in NAMES})
    kept = one_shot_masks(model, GROUPS, SHARES, criterion=same, tie_break=tie_break)
    magnitude = one_shot_masks(model, GROUPS, SHARES, tie_break=tie_break)
    assert all(torch.equal(mask, magnitude[name]) for name, mask in kept.items())


@pytest.mark.parametrize(
    ("importance", "message"),
    [
        ({}, r"Given returned nothing for words\.weight of shape \(31, 6\)"),
        ({"words.weight": torch.zeros(6)}, r"Given returned a tensor of shape \(6,\) for words\.weight"),
        ({"words.weight": torch.full((31, 6), torch.nan)}, r"Given returned NaN for words\.weight"),
    ],
)
def test_importance_that_cannot_be_ranked_is_refused(importance, message):
    model = Toy()
    with pytest.raises(InputError, match=message):
        attach_masks(model, GROUPS, SHARES, criterion=Given(importance))
    assert masks(model) == {}


def test_the_gradients_do_not_depend_on_how_a_batch_is_split(cdvqa, tmp_path):
    """Devices and accumulation are no part of a run's identity, so they must not change its first mask."""
    assert cdvqa("fit", "stage1_lpf.yaml", "--trainer.max_epochs=1") == 0
    (run,) = Path("logs/scenes/lxmert").glob("stage1*/seed0")
    flags = [f"--model.init_from={run}", "--model.sparsity.method=omp", "--model.sparsity.criterion=first_order"]
    found = []
    for batches in (1, 4):
        logs = f"--trainer.default_root_dir={tmp_path / str(batches)}"
        split = f"--trainer.accumulate_grad_batches={batches}"
        assert cdvqa("fit", "stage2_lpf.yaml", *flags, split, logs) == 0
        (path,) = (tmp_path / str(batches)).glob("*/*/stage2*/seed0/subnetwork.safetensors")
        found.append(Subnetwork.load(path).masks)
    weights = sum(mask.numel() for mask in found[0].values())
    differ = sum(int((mask ^ found[1][name]).sum()) for name, mask in found[0].items())
    assert differ <= weights / 1000  # rounding alone: entries next to the threshold
