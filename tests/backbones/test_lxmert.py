"""LXMERT against the authors' model, and its weight loading on small files in the real format."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cdvqa.backbones import Lxmert
from cdvqa.data.batch import VQABatch
from cdvqa.errors import InputError
from cdvqa.objectives import BCE

TINY = {
    "vocab_size": 40, "hidden_size": 16, "num_attention_heads": 4, "intermediate_size": 32, "visual_feat_dim": 10,
    "l_layers": 2, "r_layers": 2, "x_layers": 2, "max_position_embeddings": 20,
}  # fmt: skip


def authors_name(name: str, head: str = "classifier.main") -> str:
    """Our parameter name in the authors' naming: a weight-norm `g` and `v`, and another name of the head."""
    name = name.replace("classifier.", f"{head}.")
    return name.replace("parametrizations.weight.original0", "weight_g").replace(
        "parametrizations.weight.original1", "weight_v"
    )


@pytest.fixture
def tiny_golden(golden):
    arrays = golden("lxmert_tiny")
    config = json.loads(str(arrays["config"]))
    model = Lxmert(config.pop("ans_num"), pretrained=None, config=config)
    state = {name: torch.tensor(arrays[f"sd/{authors_name(name)}"]) for name in model.state_dict()}
    model.load_state_dict(state)
    batch = VQABatch(
        question_id=torch.arange(3),
        input_ids=torch.tensor(arrays["input_ids"]),
        region_features=torch.tensor(arrays["visual_feats"]).double(),
        boxes=torch.tensor(arrays["visual_pos"]).double(),
    )
    return model.double().eval(), batch, arrays


def test_equals_the_authors_model_with_gradients(tiny_golden):
    model, batch, arrays = tiny_golden
    output = model(batch)
    np.testing.assert_allclose(output.logits.detach(), arrays["logits"], atol=1e-6)
    np.testing.assert_allclose(output.hidden.detach(), arrays["pooled"], atol=1e-6)
    loss = BCE()(output.logits, torch.tensor(arrays["targets"]).double()).total
    np.testing.assert_allclose(loss.item(), arrays["loss"], atol=1e-6)
    loss.backward()
    parameters = {authors_name(name): parameter for name, parameter in model.named_parameters()}
    compared = [key for key in arrays if key.startswith("grad/")]
    assert len(compared) == 11
    for key in compared:
        gradient = parameters[key.removeprefix("grad/")].grad
        np.testing.assert_allclose(gradient.reshape(arrays[key].shape), arrays[key], atol=1e-6, err_msg=key)


def test_dead_branch_is_frozen_and_everything_else_gets_a_gradient(tiny_golden):
    model, batch, _ = tiny_golden
    model(batch).logits.sum().backward()
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert len(frozen) == 16 and all("x_layers.1.visn_" in name for name in frozen)
    assert not [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert len(model.dead()) == 6 and set(model.dead()) <= set(frozen)


def test_base_has_the_matrices_and_counts_of_the_paper():
    with torch.device("meta"):
        model = Lxmert(2274)
    parameters = dict(model.named_parameters())
    assert model.counts() == {"language": 87_141_888, "vision": 36_965_376, "cross": 82_575_360, "pooler": 589_824}
    assert {m: len(names) for m, names in model.matrices().items()} == {
        "language": 55,
        "vision": 32,
        "cross": 80,
        "pooler": 1,
    }
    assert sum(p.numel() for p in model.classifier.parameters()) == 4_676_324
    assert sum(parameters[name].numel() for name in model.dead()) == 7_077_888


def test_answer_is_the_best_scored_string(tiny_golden):
    model, batch, arrays = tiny_golden
    model.answers = [f"answer {i}" for i in range(11)]
    assert model.answer(batch) == [f"answer {i}" for i in arrays["logits"].argmax(1)]


def test_padding_that_no_question_needs_changes_nothing(tiny_golden):
    model, batch, _ = tiny_golden
    lengths = torch.tensor([4, 6, 3])
    mask = (torch.arange(14) < lengths[:, None]).long()
    whole = model.lxmert(
        input_ids=batch.input_ids,
        attention_mask=mask,
        visual_feats=batch.region_features,
        visual_pos=batch.boxes,
    ).pooled_output
    torch.testing.assert_close(model(replace(batch, attention_mask=mask)).hidden, whole, rtol=0, atol=1e-12)


def test_loads_a_folder_in_hugging_face_format_and_reports(tmp_path):
    saved = Lxmert(5, pretrained=None, config=TINY)
    saved.lxmert.save_pretrained(tmp_path)
    model = Lxmert(5, pretrained=str(tmp_path))
    report = model.load_pretrained()
    assert report is not None and report.share == 1 and report.missing == [] and report.unexpected == []
    assert model.training and model.lxmert.training
    torch.testing.assert_close(model.lxmert.state_dict(), saved.lxmert.state_dict())
    assert not model.lxmert.encoder.x_layers[-1].visn_inter.dense.weight.requires_grad


def test_a_truncated_or_foreign_or_absent_checkpoint_is_refused(tmp_path):
    Lxmert(5, pretrained=None, config=TINY).lxmert.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="cannot load weights"):
        Lxmert(5, pretrained=str(tmp_path)).load_pretrained()
    weights.unlink()
    with pytest.raises(InputError, match=r"--model\.backbone\.pretrained FOLDER"):
        Lxmert(5, pretrained=str(tmp_path)).load_pretrained()
    save_file({"something.else": torch.zeros(3)}, weights, metadata={"format": "pt"})
    with pytest.raises(InputError, match="not a checkpoint of LxmertModel"):
        Lxmert(5, pretrained=str(tmp_path)).load_pretrained()
