"""mPLUG against the authors' model: every stage of the forward pass, losses, gradients and beam search."""

import json

import numpy as np
import torch

from cdvqa.backbones.mplug.generation import beam_search
from cdvqa.backbones.mplug.names import translate
from cdvqa.objectives import CE, LPF


def assert_equal(ours: torch.Tensor, theirs: np.ndarray, name: str = "") -> None:
    np.testing.assert_allclose(ours.detach().numpy(), theirs, rtol=0, atol=1e-8, err_msg=name)


def test_equals_the_authors_encoders(model, batch, arrays):
    mask = batch.attention_mask.bool()
    image, text = model.vision(batch.image), model.text(batch.input_ids, mask)
    assert_equal(image, arrays["image_embeds"])
    assert_equal(text, arrays["text_embeds"])
    fused_image, fused_text = model.fusion(image, text, mask)
    assert_equal(fused_image, arrays["fusion_image_out"])
    assert_equal(fused_text, arrays["fusion_text_out"])
    assert not torch.allclose(fused_image, image)


def test_equals_the_authors_decoder_and_losses(model, batch, arrays):
    output = model(batch)
    assert output.logits is None and output.hidden is None
    sequence = output.sequence
    said = arrays["answer_mask"][:, 1:] == 1
    assert sequence.target[~torch.tensor(said)].eq(-100).all()
    np.testing.assert_array_equal(sequence.target.numpy()[said], arrays["answer_ids"][:, 1:][said])
    assert said.sum() == 22 and (sequence.target == 102).sum() == 12  # both [SEP] of each of the six answers
    real = arrays["answer_mask"][:, :-1] == 1
    assert_equal(sequence.logits[torch.tensor(real)], arrays["decoder_logits"][:, :-1][real])
    ones = sequence._replace(weight=torch.ones(6), questions=1)
    each = [CE().sequence(*(part[i : i + 1] for part in ones[:4]), 1).total.item() for i in range(6)]
    np.testing.assert_allclose(each, arrays["per_sequence_loss"], rtol=0, atol=1e-7)
    sequence = sequence._replace(weight=sequence.weight.double(), prior=sequence.prior.double())
    np.testing.assert_allclose(CE().sequence(*sequence).total.item(), arrays["loss_ce"], atol=1e-6)
    np.testing.assert_allclose(LPF(gamma=1.0).sequence(*sequence).total.item(), arrays["loss_lpf"], atol=1e-6)


def test_equals_the_authors_gradients(model, batch, arrays):
    LPF(**LPF.sequence_options).sequence(*model(batch).sequence).total.backward()
    compared = [key for key in arrays if key.startswith("grad_lpf/")]
    assert len(compared) == 5
    for key in compared:
        (name,) = translate({key.removeprefix("grad_lpf/"): torch.empty(3)}, model.state_dict())[0]
        np.testing.assert_allclose(model.get_parameter(name).grad, arrays[key], rtol=0, atol=1e-6, err_msg=key)


def test_equals_the_authors_beam_search(model, batch, arrays):
    states, mask = model.encode(batch)
    for case in ("beam", "beam2"):
        if case == "beam2":  # so that answers end before the last step
            model.classifier.bias.data[102] += float(arrays["beam2_eos_bias_add"])
        ids, lengths, scores = beam_search(
            model.next_piece, states, mask, beam_size=5, max_length=10, start=101, end=102
        )
        said = [row[:length] for row, length in zip(ids.tolist(), lengths.tolist(), strict=True)]
        assert said == json.loads(str(arrays[f"{case}_ids"]))
        np.testing.assert_allclose(scores, arrays[f"{case}_scores"], rtol=0, atol=1e-6)
