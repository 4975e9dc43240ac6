"""The choice from the vocabulary against the likelihood of each answer by itself."""

import torch

from cdvqa.backbones.mplug.ranking import Spelling
from cdvqa.data.batch import VQABatch

from .conftest import log_probs

ANSWERS = ["w7", "w7s", "w7 w8", "w9 w10 w11", "w3", "w4 w4", "w5s w6"]


def log_likelihoods(model, batch: VQABatch) -> torch.Tensor:
    """(B, A), from one answer at a time."""
    states, mask = model.encode(batch)
    columns = []
    for answer in ANSWERS:
        ids = torch.tensor(model.tokenizer.encode(answer).ids).expand(len(states), -1)
        scores = log_probs(model, ids[:, :-1], states, mask)
        columns.append(scores.gather(2, ids[:, 1:, None]).sum(dim=(1, 2)))
    return torch.stack(columns, dim=1).detach()


def test_the_likeliest_of_all_answers_wins(model, batch, tokenizer):
    model.answers, model.tokenizer, model.rank = ANSWERS, tokenizer, 128
    for seed in range(5):
        torch.manual_seed(seed)
        model.classifier.bias.data.normal_(std=3.0)
        assert model.answer(batch) == [ANSWERS[i] for i in log_likelihoods(model, batch).argmax(dim=1)]


def test_only_the_answers_of_the_likeliest_first_pieces_are_compared(model, batch, tokenizer):
    model.answers, model.tokenizer = ANSWERS[3:], tokenizer
    first_pieces, others = torch.tensor([9, 3, 4, 5]), 0
    for seed in range(5):
        torch.manual_seed(seed)
        model.classifier.bias.data.normal_(std=3.0)
        states, mask = model.encode(batch)
        first = log_probs(model, torch.full((3, 1), 101), states, mask)[:, 0, first_pieces]
        whole = log_likelihoods(model, batch)[:, 3:]
        for number in (1, 2, 4):
            model.rank = number
            compared = first.topk(number).indices
            best = compared.gather(1, whole.gather(1, compared).argmax(dim=1, keepdim=True))[:, 0]
            assert model.answer(batch) == [ANSWERS[3 + i] for i in best]
            others += int((best != whole.argmax(dim=1)).sum())
    assert others > 0  # the first piece alone does not decide


def test_spelling(tokenizer):
    spelling = Spelling(["w7s", "w7", "W7", "w7 w8 w9"], tokenizer, 101, 102)
    assert spelling.ids.tolist() == [
        [101, 7, 119, 102, 0],
        [101, 7, 102, 0, 0],
        [101, 7, 102, 0, 0],
        [101, 7, 8, 9, 102],
    ]
    assert spelling.lengths.tolist() == [4, 3, 3, 5]
    assert spelling.read([101, 7, 119, 102]) == "w7s"
    assert spelling.read([101, 7, 102, 102]) == "w7"  # of two that are spelt alike the first
    assert spelling.read([101, 8, 119]) == "w8s"  # not in the vocabulary: its text, without an end too
