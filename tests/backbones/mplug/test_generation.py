"""Beam search against one that keeps nothing: every beam is read again from its start at every step."""

import copy

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cdvqa.backbones.mplug.generation import beam_search

from .conftest import log_probs


def plain_search(model, states, mask, beam_size, max_length, start, end):
    """One question's best answer and its score; `states` (1, S, H)."""
    beams, ended = [([start], 0.0)], []
    for step in range(max_length):
        penalty = ((6 + step) / 6) ** 0.6
        longer = []
        for ids, score in beams:
            scores = log_probs(model, torch.tensor([ids]), states, mask)[0, -1].tolist()
            longer += [
                ([*ids, piece], score + log_prob)
                for piece, log_prob in enumerate(scores)
                if not (step == 0 and piece == end)
            ]
        beams = sorted(longer, key=lambda beam: beam[1], reverse=True)[:beam_size]
        last = step + 1 == max_length
        ended += [(ids, score / penalty) for ids, score in beams if ids[-1] == end or last]
        if beams[0][0][-1] == end:
            ended += [(ids, score / penalty) for ids, score in beams]
        if beams[0][0][-1] == end or last:
            return max(ended, key=lambda beam: beam[1])
    raise AssertionError("a search is at least one step long")


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 10_000),
    beam_size=st.integers(1, 6),
    max_length=st.integers(1, 6),
    eagerness=st.sampled_from([0.0, 3.0, 6.0, 9.0]),
)
def test_equals_the_plain_search(model, batch, seed, beam_size, max_length, eagerness):
    model = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    bias = torch.randn(model.classifier.bias.shape, generator=generator).double()
    model.classifier.bias.data.copy_(bias)
    model.classifier.bias.data[102] += eagerness  # answers of several lengths
    batch = copy.copy(batch)
    batch.image = torch.randn(batch.image.shape, generator=generator)
    states, mask = model.encode(batch)
    ids, lengths, scores = beam_search(
        model.next_piece, states, mask, beam_size=beam_size, max_length=max_length, start=101, end=102
    )
    for i in range(3):
        best, score = plain_search(model, states[i : i + 1], mask[i : i + 1], beam_size, max_length, 101, 102)
        assert ids[i, : lengths[i]].tolist() == best
        assert ids[i, lengths[i] :].eq(102).all()
        assert scores[i].item() == pytest.approx(score, abs=1e-9)


def test_questions_that_end_early_do_not_change_the_others(model, batch):
    model.classifier.bias.data[102] += 3.0
    states, mask = model.encode(batch)
    together = beam_search(model.next_piece, states, mask, beam_size=5, max_length=10, start=101, end=102)
    assert together.lengths.unique().numel() > 1
    for i in range(3):
        alone = beam_search(
            model.next_piece, states[i : i + 1], mask[i : i + 1], beam_size=5, max_length=10, start=101, end=102
        )
        assert alone.ids[0].tolist() == together.ids[i].tolist()
        torch.testing.assert_close(alone.scores[0], together.scores[i])


def test_image_and_question_are_read_once(model, batch):
    calls = []
    for layer in model.decoder.layer:
        layer.crossattention.self.key.register_forward_hook(lambda module, args, out: calls.append(args[0].shape))
    states, mask = model.encode(batch)
    beam_search(model.next_piece, states, mask, beam_size=5, max_length=10, start=101, end=102)
    assert calls == [states.shape] * 2  # one for each layer, whatever the number of beams and steps


def test_answers_are_the_vocabularys_strings_or_the_text_of_their_pieces(model, batch, arrays, tokenizer):
    model.classifier.bias.data[102] += float(arrays["beam2_eos_bias_add"])
    model.answers, model.tokenizer = ["W112!", "w32"], tokenizer
    assert model.answer(batch) == ["w112", "w112", "w32"]
    model.answers = ["W112", "w4"]  # the tokeniser lowers case, the vocabulary's string has it
    assert model.answer(batch) == ["W112", "W112", "w32"]


def test_masked_weights_give_the_answers_of_the_folded_ones(model, batch, tokenizer):
    from cdvqa.sparsity import attach_masks, fold_masks

    model.classifier.bias.data[102] += 6.0
    model.answers, model.tokenizer = ["w1"], tokenizer
    matrices = model.matrices()
    attach_masks(model, matrices, dict.fromkeys(matrices, 0.5), dead=model.dead())
    masked = model.answer(batch)
    fold_masks(model)
    assert model.answer(batch) == masked
