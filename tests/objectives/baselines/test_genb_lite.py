"""The loss of GenB's target model, with a finished run in place of its bias model."""

import pytest
import torch

from cdvqa.objectives import Output
from cdvqa.objectives.baselines.genb_lite import GenBLite
from cdvqa.objectives.baselines.gge import pseudo_label
from tests.objectives.inputs import assert_close, double


@pytest.mark.parametrize("case", ["c0", "c1", "c2"])
def test_it_equals_the_reference(golden, case):
    arrays = golden("genb")
    logits = double(arrays[f"{case}_logits"], grad=True)
    target, bias = double(arrays[f"{case}_target"]), double(arrays[f"{case}_bias_eval"])
    torch.testing.assert_close(pseudo_label(target, bias).clamp(0, 1), double(arrays[f"{case}_pseudo"]))
    loss = GenBLite()(logits, target, teacher=Output(bias, None))
    loss.total.backward()
    assert_close(loss.total, arrays[f"{case}_target_loss"])
    assert_close(logits.grad, arrays[f"{case}_target_grad_logits"])
    assert loss.count == len(logits) and loss.terms["task"] is loss.total
