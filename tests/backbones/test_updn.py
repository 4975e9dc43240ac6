"""UpDn against its formulas written out in numpy, and its start from GloVe."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from tokenizers import BertWordPieceTokenizer

from cdvqa.backbones import UpDn
from cdvqa.errors import InputError

SIZES = {"vocab_size": 12, "visual_feat_dim": 7, "hidden_size": 6, "embedding_size": 4}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "what", "colour", "is", "##s", "red", "the", "?"]


@pytest.fixture
def model():
    torch.manual_seed(0)
    return UpDn(5, **SIZES).double().eval()


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def by_hand(state, ids, regions):
    """Hidden and logits of one question (its real pieces) and image (its real regions), from the formulas."""

    def linear(name, x):
        norm = state[f"{name}.parametrizations.weight.original0"]
        direction = state[f"{name}.parametrizations.weight.original1"]
        return x @ (norm * direction / np.sqrt((direction**2).sum())).T + state[f"{name}.bias"]

    q = np.zeros(6)
    for i in ids:
        x = np.concatenate([state["embeddings.0.weight"][i], state["embeddings.1.weight"][i]])
        xr, xz, xn = np.split(state["gru.weight_ih_l0"] @ x + state["gru.bias_ih_l0"], 3)
        hr, hz, hn = np.split(state["gru.weight_hh_l0"] @ q + state["gru.bias_hh_l0"], 3)
        z = sigmoid(xz + hz)
        q = (1 - z) * np.tanh(xn + sigmoid(xr + hr) * hn) + z * q
    attended_by = np.maximum(linear("attention.question.0", q), 0)
    scores = [linear("attention.score", np.maximum(linear("attention.vision.0", v), 0) * attended_by) for v in regions]
    weights = np.exp(np.array(scores)[:, 0])
    v = (weights / weights.sum()) @ regions
    hidden = np.maximum(linear("question_net.0", q), 0) * np.maximum(linear("vision_net.0", v), 0)
    return hidden, linear("classifier.3", np.maximum(linear("classifier.0", hidden), 0))


def test_equals_its_formulas(model, batch):
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    output = model(batch)
    assert output.hidden.shape == (3, 6) and output.hidden.abs().max() > 0
    for row, length in enumerate(batch.attention_mask.sum(dim=1).tolist()):
        regions = batch.region_features[row][batch.region_mask[row]].numpy()
        hidden, logits = by_hand(state, batch.input_ids[row, :length].tolist(), regions)
        np.testing.assert_allclose(output.hidden[row].detach(), hidden, rtol=0, atol=1e-12)
        np.testing.assert_allclose(output.logits[row].detach(), logits, rtol=0, atol=1e-12)


def test_without_masks_every_position_and_region_counts(model, batch):
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    output = model(replace(batch, attention_mask=None, region_mask=None))
    for row in range(3):
        hidden, _ = by_hand(state, batch.input_ids[row].tolist(), batch.region_features[row].numpy())
        np.testing.assert_allclose(output.hidden[row].detach(), hidden, rtol=0, atol=1e-12)


def test_what_is_no_region_and_no_word_piece_changes_nothing(model, batch):
    other = replace(
        batch,
        input_ids=torch.where(batch.attention_mask.bool(), batch.input_ids, 3),
        region_features=torch.where(batch.region_mask[..., None], batch.region_features, 9.0),
    )
    assert (other.input_ids != batch.input_ids).any() and (other.region_features != batch.region_features).any()
    torch.testing.assert_close(model(other).hidden, model(batch).hidden, rtol=0, atol=1e-12)


def test_an_image_without_regions_or_a_question_without_words_is_no_nan(model, batch):
    empty = replace(batch, attention_mask=torch.zeros(3, 8, dtype=torch.long), region_mask=torch.zeros(3, 4).bool())
    assert model(empty).logits.isfinite().all()


def test_every_parameter_is_trained_and_gets_a_gradient(model, batch):
    model.train()
    model.checkpoint_gradients()
    model(batch).logits.square().sum().backward()
    assert not [name for name, p in model.named_parameters() if not p.requires_grad or p.grad is None]
    assert not model.embeddings[0].weight.grad[0].any() and not model.embeddings[0].weight[0].any()  # [PAD]


def test_full_size():
    with torch.device("meta"):
        model = UpDn(2274)
    assert sum(p.numel() for p in model.parameters()) == 36_363_482
    assert round(36_363_482 / 2**20, 1) == 34.7
    one_embedding_less = 30_522 * 300 + 3 * 1024 * 300
    assert 36_363_482 - one_embedding_less == 26_285_282  # as the docstring says
    assert model.hidden_size == 1024 and model.classifier[0].weight.shape == (2048, 1024)
    assert model.matrices() == {} and model.counts() == {} and model.dead() == [] and list(model.layers()) == []
    assert model.description == {
        "name": "updn", "vocab_size": 30522, "embedding_size": 300, "hidden_size": 1024, "visual_feat_dim": 2048,
        "answers": 2274,
    }  # fmt: skip
    json.dumps(model.description)


def test_answer_is_the_best_scored_string(model, batch):
    model.answers = list("abcde")
    assert model.answer(batch) == ["abcde"[i] for i in model(batch).logits.argmax(1)]


@pytest.fixture
def with_tokenizer():
    def make(glove, **sizes):
        model = UpDn(5, **SIZES | sizes, glove=None if glove is None else str(glove))
        model.tokenizer = BertWordPieceTokenizer({word: i for i, word in enumerate(WORDS)})
        return model

    return make


def test_words_of_the_glove_file_start_with_its_vectors(tmp_path, with_tokenizer):
    glove = tmp_path / "glove.4d.txt"
    glove.write_text("the 1 2 3 4\nunheard-of 1 2\nred -.5 1e-1 0 7\n? 0 0 0 1\n", encoding="utf-8")
    model = with_tokenizer(glove)
    before = model.embeddings[1].weight.detach().clone()
    report = model.load_pretrained()
    for embedding in model.embeddings:
        assert embedding.weight[[10, 9, 11]].tolist() == [
            [1, 2, 3, 4],
            pytest.approx([-0.5, 0.1, 0, 7]),
            [0, 0, 0, 1],
        ]
        assert embedding.weight.requires_grad and embedding.weight.is_leaf
    assert torch.equal(model.embeddings[1].weight[:9], before[:9])
    assert (report.matched, report.total) == (3 * 8, 12 * 8)
    assert "(3 of 12 word pieces)" in str(report) and report.missing == sorted(WORDS[:9])


def test_starts_from_random_words_without_a_file(with_tokenizer):
    assert with_tokenizer(None).load_pretrained() is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("the 1 2 3 4\nred 1 2 3\n", "line 2 ('red') has 3 numbers, --model.backbone.embedding_size is 4"),
        ("the 1 2 3 4\nred 1 2 3 4 5\n", "line 2 ('red') has 5 numbers"),
        ("red 1 2 x 4\n", "line 1 ('red') is not a word vector"),
        ("red 1 2 nan 4\n", "line 1 ('red') has numbers that are not finite"),
        ("nowhere 1 2 3 4\n", "has none of the word pieces of --data.tokenizer"),
        ("", "has none of the word pieces of --data.tokenizer"),
        (b"PK\x03\x04\xff\xfe", "cannot read word vectors"),  # the archive that GloVe is published in
        (None, "cannot read word vectors"),
    ],
)
def test_a_wrong_glove_file_is_refused_in_a_line(tmp_path, with_tokenizer, text, message):
    glove = tmp_path / "glove.txt"
    if text is not None:
        glove.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError) as error:
        with_tokenizer(glove).load_pretrained()
    assert str(error.value).startswith(str(glove)) and message in str(error.value) and "\n" not in str(error.value)


def test_more_word_pieces_than_are_embedded_are_refused(tmp_path, with_tokenizer):
    with pytest.raises(InputError, match=r"vocab_size is 11; --data\.tokenizer needs 12"):
        with_tokenizer(tmp_path / "glove.txt", vocab_size=11).load_pretrained()
