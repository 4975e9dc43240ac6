"""Masks on a whole model: exact counts at every reset, dead matrices, folding, errors that change nothing."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cdvqa.errors import InputError
from cdvqa.sparsity import (
    attach_fixed_masks,
    attach_masks,
    binary_masks,
    dense_state,
    fold_masks,
    masks,
    one_shot_masks,
    reset_thresholds,
)
from cdvqa.sparsity.assignment import ASSIGNMENTS
from cdvqa.sparsity.criteria import Random
from cdvqa.sparsity.masks.matrices import masked_matrices
from tests.sparsity.reference import zeros_asked
from tests.sparsity.toy import DEAD, GROUPS, NAMES, Toy, train

SPARSITIES = ["0", "0.1", "0.3", "0.5", "0.7", "0.9", "0.98", "1"]


def zeros(model):
    return {name: int((~mask).sum()) for name, mask in masks(model).items()}


def attached(sparsity="0.5", model=None, **options):
    model = Toy() if model is None else model
    shares = dict.fromkeys(GROUPS, float(sparsity))
    attach_masks(model, GROUPS, shares, overall=float(sparsity), dead=DEAD, **options)
    return model


# Exact counts


STARTS = [{}, {"criterion": "random"}, {"scores": "weight"}, {"alpha": 1.0}]


@settings(max_examples=60)
@given(st.sampled_from(SPARSITIES), st.sampled_from(list(ASSIGNMENTS)), st.sampled_from(STARTS), st.booleans())
def test_zeros_are_exact_at_the_start_and_after_every_reset(sparsity, assignment, start, tied):
    model = attached(sparsity, Toy(tied=tied), assignment=assignment, **start)
    sizes = {name: matrix.weight.numel() for name, matrix in zip(NAMES, masked_matrices(model), strict=True)}
    groups = {"global": [NAMES], "modality_global": list(GROUPS.values())}.get(assignment, [[name] for name in NAMES])

    def check():
        counts = zeros(model)
        assert counts["dead.weight"] == zeros_asked(sparsity, sizes["dead.weight"])
        for names in groups:
            total = sum(sizes[name] for name in names)
            assert sum(counts[name] for name in names) == zeros_asked(sparsity, total)

    check()
    for seed in (1, 2):
        train(model, 3, seed)
        report = reset_thresholds(model)
        check()
        assert {name: reset.zeros for name, reset in report.items()} == zeros(model)


@pytest.mark.parametrize("dead", [(), DEAD])
@pytest.mark.parametrize("assignment", ["modality", "modality_global"])
def test_each_modality_has_its_own_rate(assignment, dead):
    model = Toy()
    shares = {"language": 0.9, "vision": 0.1, "cross": 0.5, "pooler": 0.3}
    attach_masks(model, GROUPS, shares, assignment=assignment, dead=dead)
    train(model, 2)
    reset_thresholds(model)
    words, language, vision, cross, dead_zeros, pooler = zeros(model).values()  # of 186, 36, 54, 36, 42 and 36
    assert (vision, pooler) == (5, 11)
    if assignment == "modality":
        assert (words, language, cross, dead_zeros) == (167, 32, 18, 21)
    else:
        assert (words + language, cross + dead_zeros) == (200, 39)  # of 222 and 78
        assert dead_zeros == 21 or not dead, "a dead matrix keeps the share of its modality"


def test_between_resets_the_mask_follows_the_scores():
    model = attached("0.5")
    train(model, 3)
    reset_thresholds(model)
    before = masks(model)
    train(model, 3, rate=1e-2)
    after = masks(model)
    assert any(not torch.equal(before[name], after[name]) for name in NAMES)
    for name, mask in binary_masks(model).items():
        moved = mask.score != mask.threshold
        assert torch.equal(after[name][moved], (mask.score > mask.threshold)[moved])


# Where the masks start


@pytest.mark.parametrize("tie_break", ["exact", "strict"])
@pytest.mark.parametrize("assignment", ["uniform", "global"])
def test_mask_training_starts_from_one_shot_pruning(tie_break, assignment):
    options = {"assignment": assignment, "tie_break": tie_break}
    pruned = one_shot_masks(Toy(tied=True), GROUPS, dict.fromkeys(GROUPS, 0.6), overall=0.6, dead=DEAD, **options)
    model = attached("0.6", Toy(tied=True), **options)
    assert list(pruned) == list(masks(model)) == NAMES
    assert all(torch.equal(pruned[name], mask) for name, mask in masks(model).items())


def test_magnitude_start_prunes_the_smallest_weights():
    model = attached("0.5", criterion="magnitude")
    for matrix in masked_matrices(model):
        size, kept = matrix.weight.abs(), masks(model)[matrix.name]
        assert size[kept].min() >= size[~kept].max()
    for mask in binary_masks(model).values():
        assert set(mask.score.detach().ravel().tolist()) == {0.0, float(torch.tensor(0.02))}


def test_random_start_depends_on_the_generator_and_leaves_dead_matrices_alone():
    def start(seed):
        return masks(attached("0.5", criterion=Random(seed)))

    one, same, other, magnitude = start(0), start(0), start(1), masks(attached("0.5"))
    assert all(torch.equal(one[name], same[name]) for name in NAMES)
    assert not any(torch.equal(one[name], other[name]) for name in NAMES if name not in DEAD)
    assert not any(torch.equal(one[name], magnitude[name]) for name in NAMES if name not in DEAD)
    assert torch.equal(one["dead.weight"], magnitude["dead.weight"])


def test_random_start_prunes_every_entry_equally_often():
    counts = torch.zeros(6, 6)
    for seed in range(300):
        model = nn.Sequential(nn.Linear(6, 6))
        attach_masks(model, {"cross": ["0.weight"]}, {"cross": 0.5}, criterion=Random(seed))
        counts += masks(model)["0.weight"]
    assert counts.sum() == 300 * 18
    assert (counts / 300 - 0.5).abs().max() < 0.12  # four standard deviations


# What is trained


def test_only_weights_of_masked_matrices_are_frozen():
    model = attached()
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {f"{name.removesuffix('weight')}parametrizations.weight.original" for name in NAMES}
    originals = [matrix.weight.detach().clone() for matrix in masked_matrices(model)]
    train(model, 3)
    for before, matrix in zip(originals, masked_matrices(model), strict=True):
        assert torch.equal(before, matrix.weight)
    assert list(binary_masks(model)) == [name for name in NAMES if name not in DEAD]


def test_the_authors_global_threshold_ranks_dead_matrices_in():
    model = attached("0.5", assignment="global", tie_break="strict")
    assert "dead.weight" not in binary_masks(model)
    assert sum(zeros(model).values()) == 195  # ⌊0.5 · 390⌋, magnitudes are distinct
    thresholds = {matrix.mask.threshold.item() for matrix in masked_matrices(model)}
    train(model, 3)
    frozen = masked_matrices(model)[NAMES.index("dead.weight")].mask.score
    assert frozen.grad is None
    reset_thresholds(model)
    assert {matrix.mask.threshold.item() for matrix in masked_matrices(model)} != thresholds
    assert len({matrix.mask.threshold.item() for matrix in masked_matrices(model)}) == 1


def test_reports_count_flips_from_the_last_reset():
    model = attached("0.5")
    start = masks(model)
    train(model, 4, rate=1e-2)
    drifted = zeros(model)
    report = reset_thresholds(model)
    live = masks(model)
    for name, reset in report.items():
        assert reset.flips == int((start[name] ^ live[name]).sum())
        assert reset.zeros_before == drifted[name]
    assert report["cross.weight"].flips > 0
    assert report["dead.weight"].flips == 0
    assert report["dead.weight"].threshold is None
    assert [reset.modality for reset in report.values()] == ["language"] * 2 + ["vision"] + ["cross"] * 2 + ["pooler"]
    assert all(reset.flips == 0 for reset in reset_thresholds(model).values())


def test_state_dict_resumes_masks_thresholds_and_flips():
    model = attached("0.7", Toy(tied=True))
    train(model, 4)
    reset_thresholds(model)
    train(model, 2, rate=1e-2)
    resumed = attached("0.7", Toy(seed=5))
    resumed.load_state_dict(model.state_dict())
    assert all(torch.equal(mask, masks(resumed)[name]) for name, mask in masks(model).items())
    assert reset_thresholds(resumed) == reset_thresholds(model)
    assert all(torch.equal(mask, masks(resumed)[name]) for name, mask in masks(model).items())


# Folding and fixed masks


def test_folding_leaves_a_plain_model_and_twice_is_once():
    model = attached("0.7")
    train(model, 3)
    reset_thresholds(model)
    live, inputs = masks(model), (torch.randint(0, 31, (4, 5)), torch.randn(4, 9))
    logits, state = model(*inputs), dense_state(model)
    assert masks(model).keys() == live.keys(), "reading the state must not fold"
    fold_masks(model)
    assert model.state_dict().keys() == Toy().state_dict().keys() == state.keys()
    assert type(model.words) is nn.Embedding
    assert torch.equal(model(*inputs), logits)
    for name, mask in live.items():
        assert (model.get_parameter(name)[~mask] == 0).all()
    folded = copy.deepcopy(model.state_dict())
    fold_masks(model)
    assert all(torch.equal(value, folded[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(value, folded[name]) for name, value in state.items())
    assert masks(model) == {}


def test_fixed_masks_keep_zeros_while_the_rest_trains():
    model = Toy()
    pruned = one_shot_masks(model, GROUPS, dict.fromkeys(GROUPS, 0.5))
    model.dead.weight.requires_grad_(False)
    attach_fixed_masks(model, pruned)
    before = dense_state(model)
    train(model, 3)
    after = dense_state(model)
    for name, mask in pruned.items():
        assert (after[name][~mask] == 0).all()
    assert (after["cross.weight"] != before["cross.weight"])[pruned["cross.weight"]].all()
    assert torch.equal(after["dead.weight"], before["dead.weight"])
    assert list(masks(model)) == NAMES
    with pytest.raises(InputError, match="no masks in training"):
        reset_thresholds(model)


def test_a_model_that_is_one_layer():
    layer = nn.Linear(4, 5)
    attach_masks(layer, {"cross": ["weight"]}, {"cross": 0.5})
    assert zeros(layer) == {"weight": 10}
    assert dense_state(layer).keys() == {"weight", "bias"}
    fold_masks(layer)
    assert int((layer.weight == 0).sum()) == 10


# Errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"groups": {"cross": ["nowhere.weight"]}}, "no parameter nowhere.weight"),
        ({"groups": {"cross": ["cross.weight", "cross.weight"]}}, "cross.weight is listed twice"),
        ({"sparsity": {"language": 0.5}}, "no sparsity is given for the vision"),
        ({"dead": ["classifier.bias"]}, "dead matrix classifier.bias"),
        ({"alpha": 1.0, "tie_break": "strict"}, "would prune all of them"),
        ({"criterion": "nearest"}, "criterion 'nearest' is unknown"),
        ({"assignment": "nowhere"}, "assignment 'nowhere' is unknown"),
        ({"sparsity": dict.fromkeys(GROUPS, 1.5)}, "sparsity is 1.5"),
    ],
)
def test_wrong_arguments_change_nothing(arguments, message):
    model = Toy()
    with pytest.raises(InputError, match=message):
        attach_masks(model, **{"groups": GROUPS, "sparsity": dict.fromkeys(GROUPS, 0.5), **arguments})
    assert masks(model) == {}
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_attaching_twice_is_refused():
    model = attached()
    with pytest.raises(InputError, match=r"words\.weight has a mask already"):
        attached(model=model)
    with pytest.raises(InputError, match="has a mask already"):
        attach_fixed_masks(model, {"cross.weight": torch.ones(6, 6, dtype=torch.bool)})


def test_foreign_fixed_masks_are_refused():
    model = Toy()
    with pytest.raises(InputError, match="another backbone"):
        attach_fixed_masks(model, {"cross.weight": torch.ones(6, 5, dtype=torch.bool)})
    with pytest.raises(InputError, match=r"torch\.bool"):
        attach_fixed_masks(model, {"cross.weight": torch.ones(6, 6)})
    with pytest.raises(InputError, match="no parameter"):
        attach_fixed_masks(model, {"crosss.weight": torch.ones(6, 6, dtype=torch.bool)})
    assert masks(model) == {}


def test_diverged_scores_are_reported():
    model = attached()
    with torch.no_grad():
        next(iter(binary_masks(model).values())).score[3, 2] = float("nan")
    with pytest.raises(InputError, match="diverged"):
        reset_thresholds(model)


def test_a_model_in_double_precision_resets_exactly():
    model = attached("0.7", Toy(tied=True)).double()
    with torch.no_grad():
        for mask in binary_masks(model).values():
            mask.score.view(-1)[::3] += 1e-12  # differences that fp32 would not see
    reset_thresholds(model)
    for mask in masks(model).values():
        assert int((~mask).sum()) == zeros_asked("0.7", mask.numel())


# Scores that start from the weights themselves


@pytest.mark.parametrize("percent", [50, 70])
def test_a_start_from_the_weights_is_mplugs(golden, percent):
    arrays = golden("mask_init")
    layer = nn.Linear(36, 24, bias=False)
    layer.weight.data = torch.from_numpy(arrays["W_linear"])
    groups, shares = {"cross": ["weight"]}, {"cross": percent / 100}
    attach_masks(layer, groups, shares, scores="weight", tie_break="strict_bf16")
    mask = binary_masks(layer)["weight"]
    np.testing.assert_array_equal(mask.score.detach(), arrays[f"mplug_soft_s{percent}_mhat"])
    assert mask.threshold.item() == arrays[f"mplug_soft_s{percent}_threshold"]
    np.testing.assert_array_equal(masks(layer)["weight"], arrays[f"mplug_soft_s{percent}_mask"])


def test_mplugs_resets_round_the_threshold_to_bfloat16(golden):
    arrays = golden("mask_threshold")
    layer = nn.Linear(36, 24, bias=False)
    options = {"scores": "weight", "tie_break": "strict_bf16"}
    attach_masks(layer, {"cross": ["weight"]}, {"cross": float(arrays["mplug_sparsity"])}, **options)
    mask = binary_masks(layer)["weight"]
    mask.score.data.copy_(torch.from_numpy(arrays["mplug_mhat"]))
    reset_thresholds(layer)
    assert mask.threshold.item() == arrays["mplug_threshold_bf16_as_f32"]
    np.testing.assert_array_equal(masks(layer)["weight"], arrays["mplug_mask"])


def test_mplugs_resets_leave_a_threshold_that_would_prune_everything():
    layer = nn.Linear(4, 4, bias=False)
    attach_masks(layer, {"cross": ["weight"]}, {"cross": 0.5}, scores="weight", tie_break="strict_bf16")
    mask = binary_masks(layer)["weight"]
    before = mask.threshold.item()
    mask.score.data.fill_(0.25)
    reset_thresholds(layer)
    assert mask.threshold.item() == before


def test_a_start_from_the_weights_has_the_masks_of_one_shot_pruning():
    model, other = Toy(), Toy()
    other.load_state_dict(model.state_dict())
    pruned = one_shot_masks(model, GROUPS, dict.fromkeys(GROUPS, 0.7), dead=DEAD)
    for name, mask in masks(attached("0.7", other, scores="weight")).items():
        assert torch.equal(mask, pruned[name]), name
