"""A backbone that computes only what its answers need gives the same ones."""

import copy

import pytest
import torch

from tests.backbones.test_shrink import BACKBONES, batch


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_answers_stay(backbone, masked):
    torch.manual_seed(0)
    model, questions = BACKBONES[backbone]().eval(), batch()
    if masked:
        questions.attention_mask = (torch.arange(6) < torch.tensor([[6], [2], [4]])).long()
        questions.region_mask = torch.arange(5) < torch.tensor([[5], [1], [3]])
    small = copy.deepcopy(model)
    small.skip_unused()
    torch.testing.assert_close(small(questions).logits, model(questions).logits, rtol=0, atol=1e-5)
    kept = {name for name, _ in model.named_parameters() if not name.startswith(tuple(model.unused()))}
    assert len(list(small.parameters())) == len(kept)
    assert set(model.dead()) == {name for group in model.matrices().values() for name in group} - kept
