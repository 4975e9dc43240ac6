"""What the backbones tell of the question and of the image alone, against its definition."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from cdvqa.backbones import Lxmert, Smrl, UpDn, VisualBert
from cdvqa.data.batch import VQABatch

SIZES = {"vocab_size": 40, "hidden_size": 16, "num_attention_heads": 4, "intermediate_size": 32}
LXMERT = SIZES | {"l_layers": 2, "r_layers": 1, "x_layers": 2, "visual_feat_dim": 10}
VISUALBERT = SIZES | {"visual_embedding_dim": 10, "num_hidden_layers": 2}
LENGTHS, REGIONS = torch.tensor([4, 6, 3]), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 1, 0]]).bool()


@pytest.fixture
def batch() -> VQABatch:
    torch.manual_seed(0)
    return VQABatch(
        question_id=torch.arange(3),
        input_ids=torch.randint(1, 40, (3, 6)),
        attention_mask=(torch.arange(6) < LENGTHS[:, None]).long(),
        region_features=torch.randn(3, 4, 10).double(),
        boxes=torch.rand(3, 4, 4).double(),
        region_mask=REGIONS,
    )


def seen(module: nn.Module, model: nn.Module, batch: VQABatch) -> Tensor:
    """What a module of the model gives in a forward pass."""
    outputs: list[Tensor] = []
    hook = module.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    model(batch)
    hook.remove()
    return outputs[0][0] if isinstance(outputs[0], tuple) else outputs[0]


def means(states: Tensor, mask: Tensor) -> Tensor:
    return torch.stack([row[kept.bool()].mean(0) for row, kept in zip(states, mask, strict=True)])


@pytest.mark.parametrize("name", ["lxmert", "visualbert", "updn", "smrl"])
def test_they_are_those_of_the_definition_and_only_there_when_asked_for(batch: VQABatch, name: str):
    model: nn.Module
    if name == "lxmert":
        model = Lxmert(5, None, LXMERT).double().eval()
        question = seen(model.lxmert.encoder.layer[-1], model, batch)[:, 0]
        vision = means(seen(model.lxmert.encoder.visn_fc, model, batch), REGIONS)
    elif name == "visualbert":
        model = VisualBert(5, None, VISUALBERT).double().eval()
        embedded = seen(model.visual_bert.embeddings, model, batch)
        question, vision = means(embedded[:, :6], batch.attention_mask), means(embedded[:, 6:], REGIONS)
    else:
        model = (UpDn(5, 40, 10, 8, 4) if name == "updn" else Smrl(5, 40, 10, 4, 8)).double().eval()
        question, vision = model.read(batch.input_ids, batch.attention_mask), means(batch.region_features, REGIONS)
    before = model(batch)
    assert before.vision is None
    model.asked = frozenset({"question", "vision"})
    output = model(batch)
    assert not output.question.requires_grad and not output.vision.requires_grad
    assert {"question": output.question.shape[1], "vision": output.vision.shape[1]} == model.provides
    torch.testing.assert_close(output.question, question.detach())
    torch.testing.assert_close(output.vision, vision.detach())
    torch.testing.assert_close(output.logits, before.logits, rtol=0, atol=0)
    # Without masks every position and region counts.
    unmasked = model(replace(batch, attention_mask=None, region_mask=None))
    assert unmasked.question.shape == output.question.shape and unmasked.vision.isfinite().all()
