"""What a reset writes and reports on matrices larger than a block, against counting every entry."""

import math

import pytest
import torch
from torch import nn

from cdvqa.sparsity import Rule, attach_masks, binary_masks, masks, reset_thresholds
from cdvqa.sparsity.masks.mask import pack, pack_by_shifts, unpack, unpack_by_shifts
from cdvqa.sparsity.masks.matrices import masked_matrices
from cdvqa.sparsity.reset import take_over
from cdvqa.sparsity.selection.kth import BLOCK
from cdvqa.sparsity.selection.threshold import levels
from tests.sparsity.reference import sorted_masks, zeros_asked

GROUPS = {"language": ["0.weight", "1.weight"], "cross": ["2.weight"], "vision": ["3.weight"]}
NAMES = [name for names in GROUPS.values() for name in names]


def model(assignment="uniform", tied_weights=False):
    """Matrices of one block and a bit, of less, of one entry, and one whose mask is fixed."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(257, 256), nn.Linear(300, 7), nn.Linear(1, 1), nn.Linear(9, 5)).requires_grad_(
        False
    )
    assert layers[0].weight.numel() > BLOCK
    if tied_weights:
        for layer in layers:
            layer.weight.copy_(layer.weight.sign() * 0.5)
    attach_masks(layers, GROUPS, dict.fromkeys(GROUPS, 0.7), overall=0.7, assignment=assignment, dead=NAMES[3:])
    return layers


@torch.no_grad()
def move(layers, share, seed):
    """Change a share of the scores; the others stay tied."""
    generator = torch.Generator().manual_seed(seed)
    for mask in binary_masks(layers).values():
        moved = torch.rand(mask.score.shape, generator=generator) < share
        mask.score[moved] += 0.01 * torch.randn(int(moved.sum()), generator=generator)


@pytest.mark.parametrize("assignment", ["uniform", "global"])
@pytest.mark.parametrize("tied_weights", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_reports_and_masks_are_those_of_a_full_sort(assignment, tied_weights, share):
    layers = model(assignment, tied_weights)
    remembered = masks(layers)
    for seed in (1, 2):  # at the second reset ties are decided by the rule of the first
        move(layers, share, seed)
        drifted, fixed = masks(layers), masks(layers)["3.weight"]
        live = [matrix for matrix in masked_matrices(layers) if matrix.name != "3.weight"]
        scores, weights = [matrix.mask.score.detach() for matrix in live], [matrix.weight for matrix in live]
        if assignment == "global":
            asked = zeros_asked("0.7", sum(matrix.weight.numel() for matrix in masked_matrices(layers)))
            expected = sorted_masks(scores, weights, asked - int((~fixed).sum()))
        else:
            expected = [
                sorted_masks([score], [weight], zeros_asked("0.7", score.numel()))[0]
                for score, weight in zip(scores, weights, strict=True)
            ]
        report = reset_thresholds(layers)
        for (name, _, _, mask, weight), kept in zip(live, expected, strict=True):
            assert torch.equal(mask.mask(weight), kept), name
            assert torch.equal(unpack(mask.selected, kept.shape), kept), name
            assert report[name].zeros == int((~kept).sum())
            assert report[name].zeros_before == int((~drifted[name]).sum())
            assert report[name].flips == int((remembered[name] ^ kept).sum())
            assert report[name].threshold == mask.threshold.item()
        assert (report["3.weight"].zeros, report["3.weight"].threshold) == (int((~fixed).sum()), None)
        remembered = masks(layers)


def test_zeros_and_flips_are_counted_entry_by_entry():
    layers = model(tied_weights=True)
    move(layers, 0.4, 3)
    _, _, _, mask, weight = masked_matrices(layers)[0]
    for rule in (Rule(0.0, 0.5, BLOCK + 3), Rule(0.0, 0.5, 99), Rule(0.02), Rule(0.02, 0.1, 7), Rule(-math.inf)):
        before, remembered = mask.mask(weight), unpack(mask.selected, weight.shape)
        counts = take_over(mask, rule, weight)
        after = mask.mask(weight)
        assert counts.tolist() == [int((~before).sum()), int((~after).sum()), int((remembered ^ after).sum())]
        assert torch.equal(unpack(mask.selected, weight.shape), after)


def test_live_masks_do_not_depend_on_the_device():
    generator = torch.Generator().manual_seed(4)
    scores, weight = (torch.randint(3, (257, 256), generator=generator).float() for _ in range(2))
    for rule in (Rule(1.0, 1.0, BLOCK + 3), Rule(1.0, 1.0, 99), Rule(1.0), Rule(0.0, -1.0), Rule(-math.inf)):
        zero = torch.tensor(rule.threshold), torch.tensor(rule.tie_weight), torch.tensor(rule.tie_index)
        on_gpu = scores > levels(weight.shape, weight, *zero)
        size, position = weight.abs(), torch.arange(257 * 256).reshape(257, 256)
        ranks_above = (size > rule.tie_weight) | ((size == rule.tie_weight) & (position > rule.tie_index))
        plain = (scores > rule.threshold) | ((scores == rule.threshold) & ranks_above)
        assert torch.equal(rule.mask(scores, weight), plain) and torch.equal(on_gpu, plain)


@pytest.mark.parametrize("entries", [1, 7, 8, 9, 1000])
def test_packing_does_not_depend_on_the_device(entries):
    mask = torch.rand(entries, generator=torch.Generator().manual_seed(entries)) < 0.4
    packed = pack_by_shifts(mask)
    assert packed.dtype == torch.uint8
    assert torch.equal(packed, pack(mask))
    assert torch.equal(unpack_by_shifts(packed)[:entries], mask)


def test_matrices_of_several_types_and_strides_are_reset():
    layers = nn.Sequential(nn.Linear(300, 40), nn.Linear(40, 300).to(torch.bfloat16)).requires_grad_(False)
    layers[1].weight = nn.Parameter(layers[1].weight.T.contiguous().T, requires_grad=False)
    attach_masks(layers, {"cross": ["0.weight", "1.weight"]}, {"cross": 0.3})
    report = reset_thresholds(layers)
    assert [reset.zeros for reset in report.values()] == [3600, 3600]
    assert [int((~mask).sum()) for mask in masks(layers).values()] == [3600, 3600]
