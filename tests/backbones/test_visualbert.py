"""VisualBERT against the authors' model, and its weight loading on small files in the real format."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import VisualBertConfig, VisualBertForPreTraining

from cdvqa.backbones import VisualBert
from cdvqa.backbones.head import answer_head, save_answer_head
from cdvqa.data.batch import VQABatch
from cdvqa.errors import InputError
from cdvqa.objectives import CE
from cdvqa.sparsity import Sparsity
from tests.backbones.test_lxmert import authors_name

TINY = {
    "vocab_size": 40, "hidden_size": 16, "num_attention_heads": 4, "intermediate_size": 32, "visual_embedding_dim": 10,
    "num_hidden_layers": 2, "max_position_embeddings": 20,
}  # fmt: skip
LENGTHS = torch.tensor([4, 6, 3])


@pytest.fixture
def tiny_golden(golden):
    arrays = golden("visualbert_tiny")
    config = json.loads(str(arrays["config"]))
    model = VisualBert(config.pop("ans_num"), pretrained=None, config=config)
    state = {name: torch.tensor(arrays[f"sd/{authors_name(name, 'cls.main')}"]) for name in model.state_dict()}
    model.load_state_dict(state)
    batch = VQABatch(
        question_id=torch.arange(3),
        input_ids=torch.tensor(arrays["input_ids"]),
        region_features=torch.tensor(arrays["visual_embeds"]).double(),
    )
    return model.double().eval(), batch, arrays


@pytest.fixture
def published(tmp_path):
    """A small file as VisualBERT is published: the encoder under `visual_bert.` with the heads of its pre-training."""
    model = VisualBertForPreTraining(VisualBertConfig(**TINY))
    model.save_pretrained(tmp_path)
    return tmp_path, model


def test_equals_the_authors_model(tiny_golden):
    model, batch, arrays = tiny_golden
    output = model(batch)
    np.testing.assert_allclose(output.logits.detach(), arrays["logits"], atol=1e-6)
    np.testing.assert_allclose(output.hidden.detach(), arrays["pooled"], atol=1e-6)
    loss = CE()(output.logits, torch.tensor(arrays["targets"]).double()).total
    np.testing.assert_allclose(loss.item(), arrays["loss"], atol=1e-6)


def test_every_parameter_is_trained_and_gets_a_gradient(tiny_golden):
    """DDP stops at parameters that are trained but never used: here there are none, and nothing is frozen."""
    model, batch, _ = tiny_golden
    model.train()
    model.checkpoint_gradients()
    model(batch).logits.square().sum().backward()
    assert not [name for name, p in model.named_parameters() if not p.requires_grad or p.grad is None]
    assert model.dead() == [] and len(list(model.layers())) == 2


def test_gradients_are_the_same_when_layers_run_again_in_backward(tiny_golden):
    model, batch, _ = tiny_golden
    model(batch).logits.square().sum().backward()
    kept = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    model.checkpoint_gradients()
    model(batch).logits.square().sum().backward()
    torch.testing.assert_close({name: p.grad for name, p in model.named_parameters()}, kept)


def test_only_the_head_sees_the_dropout_of_the_pooled_output(tiny_golden):
    model, batch, arrays = tiny_golden
    model.dropout.train()
    assert model.dropout.p == 0.1 and model.classifier[2].p == 0.5
    torch.manual_seed(0)
    output = model(batch)
    np.testing.assert_allclose(output.hidden.detach(), arrays["pooled"], atol=1e-6)
    assert (output.logits.detach() - torch.tensor(arrays["logits"])).abs().max() > 1e-3


def test_base_has_the_matrices_and_counts_of_the_paper():
    with torch.device("meta"):
        model = VisualBert(2274)
    matrices = model.matrices()
    assert {m: len(names) for m, names in matrices.items()} == {"language": 1, "cross": 72, "pooler": 1}
    assert model.counts() == {"language": 23_440_896, "cross": 84_934_656, "pooler": 589_824}
    assert sum(model.counts().values()) == 108_965_376
    assert sum(p.numel() for p in model.classifier.parameters()) == 4_676_324
    order = [name for names in matrices.values() for name in names]
    assert order[0] == "visual_bert.embeddings.word_embeddings.weight"
    assert order[1] == "visual_bert.encoder.layer.0.attention.self.query.weight"
    assert order[-2:] == ["visual_bert.encoder.layer.11.output.dense.weight", "visual_bert.pooler.dense.weight"]
    assert not any("visual_projection" in name for name in order)
    assert model.description == {
        "name": "visualbert", "vocab_size": 30522, "hidden_size": 768, "intermediate_size": 3072,
        "num_attention_heads": 12, "visual_feat_dim": 2048, "layers": 12, "answers": 2274,
    }  # fmt: skip
    json.dumps(model.description)


def test_one_encoder_has_no_budget_over_modalities():
    counts = VisualBert(5, pretrained=None, config=TINY).counts()
    assert set(Sparsity(overall=0.7).rates(counts).values()) == {0.7}
    with pytest.raises(InputError, match="this one has no vision"):
        Sparsity(assignment="modality", language=0.5, cross=0.5).rates(counts)


def test_answer_is_the_best_scored_string(tiny_golden):
    model, batch, arrays = tiny_golden
    model.answers = [f"answer {i}" for i in range(11)]
    assert model.answer(batch) == [f"answer {i}" for i in arrays["logits"].argmax(1)]


def test_padding_that_no_question_needs_changes_nothing(tiny_golden):
    model, batch, arrays = tiny_golden
    mask = (torch.arange(14) < LENGTHS[:, None]).long()
    whole = model.visual_bert(
        input_ids=batch.input_ids, attention_mask=mask, visual_embeds=batch.region_features
    ).pooler_output
    trimmed = model(replace(batch, attention_mask=mask)).hidden
    torch.testing.assert_close(trimmed, whole, rtol=0, atol=1e-12)
    assert (trimmed - torch.tensor(arrays["pooled"])).abs().max() > 1e-3


def test_questions_without_a_word_still_pool_the_text(tiny_golden):
    model, batch, _ = tiny_golden
    empty = replace(batch, attention_mask=torch.zeros(3, 14, dtype=torch.long))
    first = replace(batch, input_ids=batch.input_ids[:, :1], attention_mask=torch.zeros(3, 1, dtype=torch.long))
    torch.testing.assert_close(model(empty).hidden, model(first).hidden)


@pytest.mark.parametrize("with_text_mask", [False, True])
def test_what_is_no_region_changes_nothing(tiny_golden, with_text_mask):
    model, batch, _ = tiny_golden
    region_mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 1, 0]]).bool()
    text_mask = (torch.arange(14) < LENGTHS[:, None]).long() if with_text_mask else None
    masked = replace(batch, region_mask=region_mask, attention_mask=text_mask)
    other = torch.where(region_mask[..., None], batch.region_features, 7.0)
    hidden = model(masked).hidden
    torch.testing.assert_close(model(replace(masked, region_features=other)).hidden, hidden, rtol=0, atol=1e-12)
    alone = VQABatch(
        question_id=torch.arange(1),
        input_ids=batch.input_ids[1:2],
        attention_mask=None if text_mask is None else text_mask[1:2],
        region_features=batch.region_features[1:2, :2],
    )
    torch.testing.assert_close(model(alone).hidden, hidden[1:2], rtol=0, atol=1e-12)


@pytest.mark.parametrize("format", ["safetensors", "bin"])
def test_loads_a_file_of_the_published_format_and_reports(published, format):
    folder, theirs = published
    if format == "bin":  # as the hub has it, with a buffer that older transformers saved
        positions = {"visual_bert.embeddings.position_ids": torch.arange(20)[None]}
        torch.save(theirs.state_dict() | positions, folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    model = VisualBert(5, pretrained=str(folder))
    report = model.load_pretrained()
    assert report is not None and report.share == 1 and report.missing == []
    assert report.unexpected and all(name.startswith("cls.") for name in report.unexpected)
    assert model.training and model.visual_bert.training
    torch.testing.assert_close(model.visual_bert.state_dict(), theirs.visual_bert.state_dict())
    assert all(p.requires_grad for p in model.parameters())


def test_a_head_beside_the_weights_warm_starts_the_answers_it_knows(published):
    folder, _ = published
    theirs = answer_head(16, 3)
    torch.nn.init.normal_(theirs[3].bias)
    save_answer_head(theirs, ["red", "blue", "yes"], folder)
    model = VisualBert(2, pretrained=str(folder))
    model.answers = ["yes", "unheard of"]
    model.load_pretrained()
    torch.testing.assert_close(model.classifier[3].weight[0], theirs[3].weight[2])
    assert model.classifier[3].bias.tolist() == [theirs[3].bias[2].item(), 0]


def test_starts_from_scratch_without_weights():
    model = VisualBert(5, pretrained=None, config={**TINY, "classifier_dropout": 0.0})
    assert model.load_pretrained() is None and model.classifier[2].p == 0
    with pytest.raises(InputError, match="set `pretrained` to null"):
        VisualBert(5, config=TINY)


def refusal(folder) -> str:
    with pytest.raises(InputError) as error:
        VisualBert(5, pretrained=str(folder)).load_pretrained()
    message = str(error.value)
    assert str(folder) in message and "\n" not in message
    return message


def test_an_absent_or_truncated_file_is_refused(published):
    folder, _ = published
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    assert "cannot load weights" in refusal(folder)
    weights.unlink()
    assert "--model.backbone.pretrained FOLDER" in refusal(folder)
    (folder / "config.json").unlink()
    assert "no config.json" in refusal(folder)


def test_a_file_that_lacks_a_layer_is_refused(published):
    folder, _ = published
    state = load_file(folder / "model.safetensors")
    rest = {name: tensor for name, tensor in state.items() if ".layer.1." not in name}
    save_file(rest, folder / "model.safetensors", {"format": "pt"})
    message = refusal(folder)
    assert "first missing: encoder.layer.1." in message and "not a checkpoint of VisualBertModel" in message


def test_a_file_of_another_size_is_refused_by_its_first_tensor(published, caplog, capfd):
    folder, _ = published
    state = load_file(folder / "model.safetensors")
    state["visual_bert.embeddings.visual_projection.weight"] = torch.zeros(16, 12)
    state["visual_bert.pooler.dense.weight"] = torch.zeros(8, 16)
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    message = refusal(folder)
    assert "embeddings.visual_projection.weight is [16, 12], the model's is [16, 10]" in message
    assert not caplog.records and not capfd.readouterr().err  # one line, and no table before it
