"""S-MRL against its authors' numbers, and what a padded batch must not change."""

import json
from dataclasses import replace

import pytest
import torch
from tokenizers import BertWordPieceTokenizer

from cdvqa.backbones import Smrl
from cdvqa.backbones.block import BlockFusion
from cdvqa.backbones.smrl import word_weights
from cdvqa.data.batch import VQABatch

SIZES = {
    "vocab_size": 12, "visual_feat_dim": 7, "embedding_size": 4, "question_size": 6, "attention_size": 5,
    "fusion_size": 10, "chunks": 3, "rank": 2, "hidden_size": 8, "classifier_size": 9,
}  # fmt: skip
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
OURS = {
    "txt_enc.embedding": "embedding",
    "txt_enc.rnn": "gru",
    "q_att_linear0": "attention.score.0",
    "q_att_linear1": "attention.score.2",
    "fusion_module.linear0": "fusion.question",
    "fusion_module.linear1": "fusion.vision",
    "fusion_module.merge_linears0": "fusion.question_chunks",
    "fusion_module.merge_linears1": "fusion.vision_chunks",
    "fusion_module.linear_out": "fusion.output",
    "classif_module.linears.0": "classifier.0",
    "classif_module.linears.1": "classifier.2",
    "classif_module.linears.2": "classifier.4",
}


def ours(name):
    """Our name of one of the authors' parameters."""
    (theirs,) = (prefix for prefix in OURS if name.startswith(f"{prefix}."))
    return OURS[theirs] + name.removeprefix(theirs)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Smrl(5, **SIZES).double().eval()


@pytest.fixture(params=["c0_", "c1_"])
def case(request, golden):
    """The authors' arrays of one case, our model with their weights, and the case as a batch."""
    arrays = golden("smrl_tiny")
    case = {name[3:]: torch.tensor(array) for name, array in arrays.items() if name[:3] == request.param and array.ndim}
    sizes = json.loads(str(arrays[f"{request.param}config"]))
    model = Smrl(
        sizes["answers"], sizes["vocab"], sizes["v_dim"], sizes["embedding"], sizes["hidden"], sizes["attention"],
        sizes["mm_dim"], sizes["chunks"], sizes["rank"], sizes["fusion_out"], sizes["mlp"],
    )  # fmt: skip
    state = {ours(name[3:]): tensor for name, tensor in case.items() if name.startswith("sd/")}
    model.load_state_dict(state)
    batch = VQABatch(
        question_id=torch.arange(len(case["question"])),
        input_ids=case["question"],
        attention_mask=(torch.arange(case["question"].shape[1]) < case["lengths"]).long(),
        region_features=case["visual"].double().requires_grad_(),
    )
    return case, model.double().eval(), batch


def test_equals_the_authors_with_their_maximum(case):
    case, model, batch = case
    states = model.states(batch.input_ids)
    maximum = model.attention.score(states).max()  # of the whole batch, padding and both glimpses
    question = model.attention(states, batch.attention_mask, maximum)
    fused = model.fusion(question, batch.region_features)
    hidden = model.pool(question, batch.region_features, None)
    logits = model.classifier(hidden)
    expected = {"q_emb": question, "fused_regions": fused, "mm": hidden, "mm_argmax": fused.argmax(1), "logits": logits}
    for name, tensor in expected.items():
        torch.testing.assert_close(
            tensor, case[name], rtol=1e-6, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}"
        )
    (logits * case["upstream"]).sum().backward()
    gradients = {name[5:]: tensor for name, tensor in case.items() if name.startswith("grad/")}
    assert len(gradients) == 7
    for name, gradient in gradients.items():
        found = model.get_parameter(ours(name)).grad
        torch.testing.assert_close(found, gradient, rtol=1e-6, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}")
    torch.testing.assert_close(batch.region_features.grad, case["grad_visual"], rtol=1e-6, atol=1e-9)


def test_in_use_it_differs_from_the_authors_by_their_epsilon_alone(case):
    case, model, batch = case
    model.asked = frozenset({"vision"})
    output = model(batch)
    torch.testing.assert_close(output.question, case["q_emb"], rtol=1e-4, atol=1e-5)
    assert not torch.equal(output.question, case["q_emb"])
    torch.testing.assert_close(output.vision, case["v_emb"])


def test_a_row_does_not_depend_on_its_batch_nor_on_padding(model, batch):
    output = model(batch)
    assert output.hidden.shape == (3, 8) and output.question.shape == (3, 12)
    for row, length in enumerate(batch.attention_mask.sum(dim=1).tolist()):
        alone = VQABatch(
            question_id=torch.arange(1),
            input_ids=batch.input_ids[row : row + 1, :length],
            region_features=batch.region_features[row][batch.region_mask[row]][None],
        )
        found = model(alone)
        for name in ("logits", "hidden", "question"):
            torch.testing.assert_close(getattr(found, name)[0], getattr(output, name)[row], rtol=0, atol=1e-14)


def test_what_is_no_region_and_no_word_piece_changes_nothing(model, batch):
    other = replace(
        batch,
        input_ids=torch.where(batch.attention_mask.bool(), batch.input_ids, 3),
        region_features=torch.where(batch.region_mask[..., None], batch.region_features, 9.0),
    )
    assert (other.input_ids != batch.input_ids).any() and (other.region_features != batch.region_features).any()
    assert torch.equal(model(other).logits, model(batch).logits)
    unmasked = replace(other, region_mask=None)
    assert not torch.allclose(model(unmasked).logits, model(batch).logits), "the regions that are none would matter"


def test_an_image_without_regions_or_a_question_without_words_is_no_nan(model, batch):
    nothing = torch.zeros(3, 8, dtype=torch.long)
    regions, none = batch.region_features.float(), torch.zeros(3, 4).bool()
    empty = model.float()(replace(batch, attention_mask=nothing, region_features=regions, region_mask=none))
    assert empty.logits.isfinite().all() and empty.hidden.abs().max() < 100


def test_each_question_has_the_maximum_of_its_own_words():
    scores = torch.tensor([[[900.0], [900.0], [5e3]], [[-900.0], [-902.0], [-901.0]]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    weights = word_weights(scores, mask)[..., 0]
    shares = torch.tensor([0.0, -2.0, -1.0]).exp()
    expected = torch.stack([torch.tensor([1.0, 1.0, 0.0]) / 2, shares / shares.sum()])
    torch.testing.assert_close(weights, expected, rtol=2e-5, atol=0)
    assert not word_weights(scores, mask, scores.max()).any(), "with one maximum for all, all words are lost"


def test_chunks_that_do_not_divide_the_width():
    assert BlockFusion(3, 4, 5, fusion_size=22, chunks=5, rank=2).sizes == [5, 5, 5, 5, 2]
    assert BlockFusion(3, 4, 5, fusion_size=20, chunks=4, rank=2).sizes == [5, 5, 5, 5]


def test_a_chunk_of_zeros_has_a_gradient():
    fusion = BlockFusion(3, 4, 5, fusion_size=6, chunks=2, rank=2)
    torch.nn.init.zeros_(fusion.question_chunks[0].weight)
    torch.nn.init.zeros_(fusion.question_chunks[0].bias)
    fusion(torch.randn(2, 3), torch.randn(2, 4, 4)).square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in fusion.parameters())


def test_every_parameter_is_trained_and_gets_a_gradient(model, batch):
    model.train()
    model.checkpoint_gradients()
    model(batch).logits.square().sum().backward()
    assert not [name for name, p in model.named_parameters() if not p.requires_grad or p.grad is None]
    assert not model.embedding.weight.grad[0].any() and not model.embedding.weight[0].any()  # [PAD]


def test_the_same_units_of_all_words_are_dropped_out(model, batch):
    words = []
    model.train().gru.register_forward_pre_hook(lambda module, inputs: words.append(inputs[0]))
    torch.manual_seed(0)
    model(batch)
    kept = words[0] != 0
    assert kept.any() and not kept.all()
    assert torch.equal(kept, kept[:, :1].expand_as(kept))


def test_full_size():
    with torch.device("meta"):
        model = Smrl(2274)
    gru, attention = 3 * 2400 * (620 + 2400 + 2), 2401 * 512 + 513 * 2
    block = 4801 * 1000 + 2049 * 1000 + 2 * 20 * 51 * 750 + 1001 * 2048
    classifier = 2049 * 1024 + 1025 * 1024 + 1025 * 2274
    parameters = sum(p.numel() for p in model.parameters())
    assert parameters == 30_522 * 620 + gru + attention + block + classifier == 57_821_052
    assert sum(p.numel() for p in model.classifier.parameters()) == classifier
    assert isinstance(model.classifier[-1], torch.nn.Linear) and model.classifier[0].in_features == model.hidden_size
    assert model.matrices() == {} and model.provides == {"question": 4800, "vision": 2048}
    assert model.description == {
        "name": "smrl", "vocab_size": 30522, "visual_feat_dim": 2048, "embedding_size": 620, "question_size": 2400,
        "attention_size": 512, "fusion_size": 1000, "chunks": 20, "rank": 15, "hidden_size": 2048,
        "classifier_size": 1024, "answers": 2274,
    }  # fmt: skip
    json.dumps(model.description)


def test_words_of_the_glove_file_start_with_its_vectors(tmp_path):
    glove = tmp_path / "glove.4d.txt"
    glove.write_text("red -.5 1e-1 0 7\n", encoding="utf-8")
    model = Smrl(5, **SIZES, glove=str(glove))
    model.tokenizer = BertWordPieceTokenizer({word: i for i, word in enumerate([*SPECIAL, "red"])})
    report = model.load_pretrained()
    assert model.embedding.weight[5].tolist() == pytest.approx([-0.5, 0.1, 0, 7])
    assert (report.matched, report.total) == (4, 12 * 4)
    assert Smrl(5, **SIZES, **model.from_scratch()).load_pretrained() is None
