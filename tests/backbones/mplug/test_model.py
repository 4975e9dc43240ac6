"""What mPLUG masks, trains and says of itself."""

import copy

import pytest
import torch

from cdvqa.backbones import Mplug
from cdvqa.data.batch import AnswerSequences
from cdvqa.errors import InputError
from cdvqa.objectives import CE
from tests.backbones.shrinking import shrunk, size, with_zeros

PROJECTION = 768 * 512  # CLIP's last matrix: in the authors' model, but nothing reads it


@pytest.fixture(scope="module")
def base() -> Mplug:
    with torch.device("meta"):
        return Mplug(3129)


def test_base_has_the_matrices_and_counts_of_the_authors(base):
    matrices = base.matrices()
    assert {modality: len(names) for modality, names in matrices.items()} == {
        "vision": 24, "language": 36, "cross": 60 + 120,
    }  # fmt: skip
    assert base.counts() == {"vision": 56_623_104, "language": 42_467_328, "cross": 169_869_312}
    assert sum(base.counts().values()) == 268_959_744
    assert matrices["cross"][0] == "fusion.layer.6.attention.self.query.weight"
    assert matrices["cross"][6] == "fusion.layer.6.crossattention.self.query.weight"
    assert matrices["cross"][60] == "decoder.layer.0.attention.self.query.weight"
    # 347,440,698 parameters are used by the authors' count: it has layer 9's cross-attention, and CLIP's projection.
    assert sum(p.numel() for p in base.parameters()) == 347_440_698 - PROJECTION
    assert sum(p.numel() for p in base.classifier.parameters()) == 768 * 768 + 768 + 2 * 768 + 30522
    assert {layer.self_attn.dropout for layer in base.vision.encoder.layers} == {0.1}
    assert base.image_format.side == 384 and base.vision.embeddings.num_positions == 577


def test_the_cross_attention_of_the_connected_layer_is_dead_and_frozen(base):
    assert base.dead() == [
        f"fusion.layer.9.crossattention.{part}.weight"
        for part in ("self.query", "self.key", "self.value", "output.dense")
    ]
    frozen = [name for name, parameter in base.named_parameters() if not parameter.requires_grad]
    assert len(frozen) == 10 and all(name.startswith("fusion.layer.9.crossattention.") for name in frozen)


def test_all_that_is_trained_gets_a_gradient(model, batch):
    CE().sequence(*model.train()(batch).sequence).total.backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert len(trained) > 100 and not [name for name, p in trained.items() if p.grad is None]
    assert not [name for name, p in model.named_parameters() if not p.requires_grad and p.grad is not None]


def test_checkpointed_gradients_equal_the_plain_ones(model, batch):
    lean = copy.deepcopy(model)
    lean.checkpoint_gradients()
    assert len(list(lean.layers())) == 2 + 2 + 6 + 2
    for each in (model, lean):
        torch.manual_seed(3)
        CE().sequence(*each.train()(batch).sequence).total.backward()
    for (name, plain), again in zip(model.named_parameters(), lean.parameters(), strict=True):
        if plain.requires_grad:
            torch.testing.assert_close(again.grad, plain.grad, msg=name)


def test_groups_decay_and_rate_are_the_authors(model):
    model.vision_lr = 5e-6
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = model.parameter_groups(3e-5, 0.02)
    settings = {names[id(p)]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert set(settings) == {name for name, p in model.named_parameters() if p.requires_grad}
    assert len(groups) == 4 and sum(len(group["params"]) for group in groups) == len(settings)
    expected = {
        "vision.encoder.layers.0.layer_norm1.weight": (5e-6, 0.02),  # CLIP's norms decay, as its names are others
        "vision.encoder.layers.0.layer_norm1.bias": (5e-6, 0),
        "vision.encoder.layers.1.mlp.fc1.weight": (5e-6, 0.02),
        "vision.embeddings.class_embedding": (5e-6, 0.02),
        "text.embeddings.LayerNorm.weight": (3e-5, 0),
        "text.embeddings.word_embeddings.weight": (3e-5, 0.02),
        "fusion.layer.9.output.LayerNorm.weight": (3e-5, 0),
        "decoder.layer.0.crossattention.self.query.bias": (3e-5, 0),
        "classifier.transform.LayerNorm.weight": (3e-5, 0),
        "classifier.bias": (3e-5, 0),
        "classifier.transform.dense.weight": (3e-5, 0.02),
    }
    assert {name: settings[name] for name in expected} == expected
    model.vision_lr = None
    assert {group["lr"] for group in model.parameter_groups(3e-5, 0.02)} == {3e-5}


def test_masks_take_part_in_the_groups_with_decay(model):
    from cdvqa.sparsity import attach_masks

    matrices = model.matrices()
    attach_masks(model, matrices, dict.fromkeys(matrices, 0.5), dead=model.dead())
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    model.vision_lr = 1e-6
    found = {}
    for group in model.parameter_groups(1e-3, 0.02):
        for parameter in group["params"]:
            found[names[id(parameter)]] = group["lr"], group["weight_decay"]
    scores = {name: setting for name, setting in found.items() if name.endswith(".score")}
    assert len(scores) == sum(map(len, matrices.values())) - 4
    assert set(scores.values()) == {(1e-6, 0.02), (1e-3, 0.02)}


def test_no_attention_mask_means_that_all_word_pieces_are_read(model, batch):
    plain = copy.copy(batch)
    plain.attention_mask = None
    ones = copy.copy(batch)
    ones.attention_mask = torch.ones_like(batch.input_ids)
    torch.testing.assert_close(model(plain).sequence.logits, model(ones).sequence.logits)
    assert not torch.allclose(model(plain).sequence.logits, model(batch).sequence.logits)


def test_padding_changes_nothing(model, batch):
    padded = copy.copy(batch)
    padded.input_ids = torch.nn.functional.pad(batch.input_ids, (0, 3), value=5)
    padded.attention_mask = torch.nn.functional.pad(batch.attention_mask, (0, 3))
    sequences = copy.copy(batch.sequences)
    sequences.ids = torch.nn.functional.pad(sequences.ids, (0, 2), value=7)
    sequences.mask = torch.nn.functional.pad(sequences.mask, (0, 2))
    padded.sequences = sequences
    ours, theirs = (CE().sequence(*model(each).sequence).total for each in (padded, batch))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_a_configuration_it_does_not_know_is_refused():
    with pytest.raises(InputError, match="hidden_width is no size of mPLUG"):
        Mplug(5, pretrained=None, config={"hidden_width": 3})
    with pytest.raises(InputError, match="vision: depth is no size of mPLUG"):
        Mplug(5, pretrained=None, config={"vision": {"depth": 3}})
    with pytest.raises(InputError, match=r"vision\.width must equal hidden_size"):
        Mplug(5, pretrained=None, config={"hidden_size": 24})
    with pytest.raises(InputError, match="must be a multiple of num_attention_heads"):
        Mplug(5, pretrained=None, config={"hidden_size": 64, "vision": {"width": 64}})
    with pytest.raises(InputError, match="`config` is for a model from scratch"):
        Mplug(5, config={"hidden_size": 24})


def test_an_answer_does_not_see_the_others_to_its_question(model, batch):
    together = model(batch).sequence.logits
    sequences = batch.sequences
    for i in range(6):
        alone = copy.copy(batch)
        alone.sequences = AnswerSequences(
            *(getattr(sequences, name)[i : i + 1] for name in ("ids", "mask", "question", "weight", "prior"))
        )
        torch.testing.assert_close(model(alone).sequence.logits[0], together[i])


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_a_smaller_network_gives_the_same_answers(model, batch, share):
    full, masks = with_zeros(model, share)
    small = shrunk(full, masks)
    torch.testing.assert_close(small(batch).sequence.logits, full(batch).sequence.logits, rtol=0, atol=1e-9)
    assert size(small) < size(full)
