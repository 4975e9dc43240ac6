"""A structured subnetwork without its empty heads and neurons gives the same answers from smaller matrices."""

import pytest
import torch

from cdvqa.backbones import Lxmert, VisualBert
from cdvqa.data.batch import VQABatch
from cdvqa.errors import InputError
from cdvqa.sparsity import count_zeros
from cdvqa.sparsity.shrink import left_over, shrink
from tests.backbones.shrinking import shrunk, size, with_zeros
from tests.backbones.test_lxmert import TINY as LXMERT
from tests.backbones.test_visualbert import TINY as VISUALBERT

BACKBONES = {"lxmert": lambda: Lxmert(7, None, LXMERT), "visualbert": lambda: VisualBert(7, None, VISUALBERT)}


def batch():
    generator = torch.Generator().manual_seed(0)
    return VQABatch(
        question_id=torch.arange(3),
        input_ids=torch.randint(1, 40, (3, 6), generator=generator),
        region_features=torch.randn(3, 5, 10, generator=generator),
        boxes=torch.rand(3, 5, 4, generator=generator),
    )


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_smaller_network_gives_the_same_answers(backbone, share):
    torch.manual_seed(0)
    model, masks = with_zeros(BACKBONES[backbone]().eval(), share)
    small = shrunk(model, masks)
    torch.testing.assert_close(small(batch()).logits, model(batch()).logits, rtol=0, atol=1e-5)
    for structure in model.structures():
        heads = len(structure.parts) > 2
        expected = max(structure.number - count_zeros(share, structure.number), int(heads))
        for name, axis in structure.parts:
            before, after = model.get_parameter(name).shape, small.get_parameter(name).shape
            assert after[axis] == before[axis] * expected // structure.number and after[1 - axis] == before[1 - axis]
    zeros = sum(int((~mask).sum()) for mask in masks.values())
    assert share == 1.0 or size(model) - size(small) == zeros
    small.train()
    small(batch()).logits.sum().backward()  # and it can be trained


@pytest.mark.parametrize("pattern", ["block16x1", "2:4"])
def test_only_what_is_empty_is_taken_out(pattern):
    """A block of 16 rows is the whole column of a narrow output, so that neurons are empty by chance."""
    torch.manual_seed(0)
    model, masks = with_zeros(BACKBONES["lxmert"]().eval(), 0.5, pattern)
    small = shrunk(model, masks)
    torch.testing.assert_close(small(batch()).logits, model(batch()).logits, rtol=0, atol=1e-5)
    assert (size(small) < size(model)) == (pattern == "block16x1")


def test_units_that_are_not_there_are_named():
    model = BACKBONES["lxmert"]()
    name = model.structures()[0].name
    for left in ({"nowhere: heads": [0]}, {name: [4]}, {name: 3}, {name: "0"}):
        with pytest.raises(InputError, match="this backbone has no such heads or neurons"):
            shrink(model, model.structures(), left)
    assert left_over(model.structures(), {}) == {}
