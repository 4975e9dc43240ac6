"""The cosine head and its margins against the authors' functions."""

import json
import math

import torch

from cdvqa.objectives.baselines.margin_cosine import frequency_margins
from cdvqa.objectives.heads import CosineHead
from tests.objectives.inputs import assert_close, cases, double, made, table

MARGINS = "cdvqa.objectives.baselines.margin_cosine.frequency_margins"


def head_with(kernels: torch.Tensor) -> CosineHead:
    """The head with these kernels (A, D)."""
    head = made("margin_cosine").head(kernels.shape[1], kernels.shape[0]).double()
    with torch.no_grad():
        head.kernels.copy_(kernels)
    return head


def check(arrays, case, variant, counts, target):
    """Cosines, loss and gradients of one case."""
    objective, head = made("margin_cosine"), head_with(double(arrays[f"{case}_kernel"]).T)
    feature = double(arrays[f"{case}_feature"], grad=True)
    cosines = head(feature)
    assert_close(cosines, arrays[f"{case}_test_scores"])
    loss = objective(cosines, target, counts=counts)
    loss.total.backward()
    assert_close(loss.total, arrays[f"{case}{variant}_loss"])
    assert_close(feature.grad, arrays[f"{case}{variant}_grad_feature"])
    assert_close(head.kernels.grad.T, arrays[f"{case}{variant}_grad_kernel"])


def test_the_loss_equals_the_authors(golden, monkeypatch):
    arrays = golden("loss_adavqa")
    for case in cases(arrays, "_m"):
        monkeypatch.setattr(MARGINS, lambda counts, *limits: counts)
        check(arrays, case, "", double(arrays[f"{case}_m"]), double(arrays[f"{case}_target"]))


def test_the_authors_samples_are_reproduced_from_their_annotations(golden):
    arrays = golden("loss_adavqa")
    counts, target = table(arrays)
    assert_close(frequency_margins(counts, 50, 4.5), arrays["table_m_fixed"])
    check(arrays, "table", "_fixed", counts, target)


def test_a_type_of_the_limits_entropy_has_no_margins(golden):
    arrays = golden("loss_adavqa")
    vocabulary = json.loads(str(arrays["table_vocabulary"]))
    entropies = json.loads(str(arrays["table_entropy_fixed"]))
    numbers = json.loads(str(arrays["table_counts"]))
    for name in ("is the", "what color", "how many"):
        counts = torch.tensor([[numbers[name].get(answer, 0) for answer in vocabulary]]).double()
        assert not frequency_margins(counts, 50, entropies[name] - 1e-9).any()
        margins = frequency_margins(counts, 50, entropies[name] + 1e-9)
        assert_close(margins.sum(), 1)
        assert torch.equal(margins > 0, counts >= 50)


def test_the_margin_is_one_less_the_share():
    """Two answers at the same angle: the rarer one needs the larger cosine, the first one like any other."""
    target = torch.eye(3)[[0, 1]].double()
    counts, cosines = torch.tensor([[300.0, 100, 49]]).double().repeat(2, 1), torch.zeros(2, 3).double()
    loss = made("margin_cosine", scale=2.0)(cosines, target, counts=counts).total
    logits = [2 * (0.75 - 1), 2 * (0.25 - 1), 2 * (0 - 1)]
    normaliser = math.log(sum(map(math.exp, logits)))
    assert_close(loss, normaliser - (logits[0] + logits[1]) / 2)
    assert not frequency_margins(torch.tensor([[49.0, 0, 7]]), 50, 4.5).any(), "nothing is known of the type"
    assert_close(frequency_margins(torch.tensor([[150.0, 50, 49]]), 50, 4.5), [[0.75, 0.25, 0]])


def test_kernels_start_small_and_their_length_does_not_matter():
    head = CosineHead(10, 5)
    assert head.kernels.shape == (5, 10) and 0.05 < head.kernels.abs().max() <= 0.1
    features = torch.randn(4, 10)
    expected = torch.cosine_similarity(features[:, None], head.kernels[None], dim=2)
    torch.testing.assert_close(head(3 * features), expected)
