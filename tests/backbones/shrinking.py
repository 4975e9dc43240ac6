"""Zeros in a model's heads and neurons, and the same model without them."""

import copy

import torch

from cdvqa.sparsity.patterns import patterned_masks
from cdvqa.sparsity.shrink import left_over, shrink


def with_zeros(model, share, pattern="structured", seed=0):
    """A copy of a model that a pattern has pruned, at random, and its masks."""
    model, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    weights = {name: model.get_parameter(name).detach() for names in model.matrices().values() for name in names}
    importance = {name: torch.rand(weight.shape, generator=generator) for name, weight in weights.items()}
    masks = patterned_masks(pattern, importance, weights, dict.fromkeys(weights, share), model.structures())
    with torch.no_grad():
        for name, mask in masks.items():
            model.get_parameter(name).mul_(mask)
    return model, masks


def shrunk(model, masks):
    """A smaller copy."""
    model = copy.deepcopy(model)
    shrink(model, model.structures(), left_over(model.structures(), masks))
    return model


def size(model):
    return sum(model.get_parameter(name).numel() for names in model.matrices().values() for name in names)
