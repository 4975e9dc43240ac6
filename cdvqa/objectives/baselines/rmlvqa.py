"""RMLVQA (Basu et al., 2023): margins that are randomised and learnt, and a bias head."""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from cdvqa.objectives.baselines.margin_cosine import frequency_margins
from cdvqa.objectives.ce import soft_cross_entropy
from cdvqa.objectives.heads import CosineHead, answer_head
from cdvqa.objectives.objective import Loss, Objective, Progress, labelled_only
from cdvqa.objectives.output import Output

DROPOUT = 0.5
NOISE = 0.1  # standard deviation
TEMPERATURE = 0.2
LEAST = -1000.0  # logit of an answer without a margin of its own
PERIOD, STEP = 15, 0.1  # every PERIOD epochs the learnt margins count STEP more


class RMLVQA(Objective):
    """Cross-entropy of angles with margins of three sources, a bias head, and a contrast of the whole batch.

    With m of `frequency_margins`, noise z ~ N(0, 1), the bias head's logits v of `hidden`, cosines cos θ of a
    `CosineHead`, f = 1 for answers that were ever given under the question's type and 0 for others:

        m̃ = m + .1 z;   where t ≠ 0: m̃ ← β m̃ + (1 − β) `instance_margins`(v, m),   β = 1 − .1 ⌊epoch / 15⌋,
        task     = −(1/B) Σ_b Σ_a t f log softmax(s `with_margins`(cos θ, 1 − m̃)),
        bias     = −(1/B) Σ_b Σ_a t f log softmax(v),
        contrast = `supervised_contrast`(hidden, label),

    and the loss is their sum. The bias head is a second `answer_head`: weight-norm Linear H → 2H, ReLU,
    dropout .5, weight-norm Linear 2H → A. Test scores use it, so it is a part of the network:

        ½ softmax(cos θ / ‖cos θ‖) + ½ softmax(v / (.2 ‖v‖)).

    Source: Basu et al. (2023), "RMLVQA: A Margin Loss Approach For Visual Question Answering with Language Biases", and
    its code (`train_arcface.py`, `modules/base_model_arcface.py`). There one feature goes to the cosines and to the
    bias head; here the cosines see what the classifier's last Linear does. Their code never trains the vocabulary's
    first answer, and contrasts questions without a label as if they had that one; this does neither.

    Args:
        hidden_size: H.
        num_answers: A.
        scale: s.
        min_count, entropy_limit: see `frequency_margins`.
    """

    needs = frozenset({"hidden", "label", "counts", "progress"})
    batch_dependent = True
    in_network = True

    def __init__(
        self,
        hidden_size: int,
        num_answers: int,
        scale: float = 16.0,
        min_count: int = 50,
        entropy_limit: float = 4.5,
    ) -> None:
        super().__init__()
        self.scale, self.min_count, self.entropy_limit = scale, min_count, entropy_limit
        self.bias_head = answer_head(hidden_size, num_answers, DROPOUT)

    def head(self, inputs: int, answers: int) -> nn.Module:
        return CosineHead(inputs, answers)

    def loss(
        self, logits: Tensor, soft_target: Tensor, hidden: Tensor, label: Tensor, counts: Tensor, progress: Progress
    ) -> Loss:
        frequency, bias = frequency_margins(counts, self.min_count, self.entropy_limit), self.bias(hidden)
        noise = torch.randn(frequency.shape, generator=self.generator).to(frequency)
        margins = frequency + NOISE * noise
        learnt = STEP * (progress.epoch // PERIOD)
        mixed = (1 - learnt) * margins + learnt * instance_margins(bias, frequency)
        margins = torch.where(soft_target != 0, mixed, margins)
        seen = soft_target * (counts > 0)
        task = soft_cross_entropy(self.scale * with_margins(logits, 1 - margins), seen)
        injected, contrast = soft_cross_entropy(bias, seen), supervised_contrast(hidden, label)
        terms = {"task": task, "bias": injected, "contrast": contrast}
        return Loss(task + injected + contrast, terms, len(logits))

    def bias(self, hidden: Tensor) -> Tensor:
        """Logits v (B, A) of the bias head; training drops the same units on every process."""
        first, relu, _, last = self.bias_head
        units = relu(first(hidden))
        if self.training:
            kept = torch.rand(units.shape, generator=self.generator) >= DROPOUT
            units = units * kept.to(units) / (1 - DROPOUT)
        logits: Tensor = last(units)
        return logits

    def scores(self, output: Output) -> Tensor:
        assert output.logits is not None and output.hidden is not None, "a generative backbone has no scores"
        bias = normalize(self.bias(output.hidden), dim=1) / TEMPERATURE
        return (normalize(output.logits, dim=1).softmax(dim=1) + bias.softmax(dim=1)) / 2


def instance_margins(bias: Tensor, frequency: Tensor) -> Tensor:
    """softmax(v / .2) over the answers with a frequency margin, (B, A), from logits and margins (B, A)."""
    return (bias.masked_fill(frequency == 0, LEAST) / TEMPERATURE).softmax(dim=1)


def with_margins(cosines: Tensor, margins: Tensor) -> Tensor:
    """cos(θ + μ) where cos θ > cos(π − μ), else cos θ − μ sin(π − μ); cosines and margins μ (B, A), in radians.

    Beyond π the cosine would rise again. Source: ArcFace (Deng et al., 2019).
    """
    least = torch.finfo(cosines.dtype).eps  # the derivative of a root at 0 is infinite
    sines = (1 - cosines**2).clamp(min=least).sqrt()
    further = cosines * margins.cos() - sines * margins.sin()
    return torch.where(cosines > -margins.cos(), further, cosines - margins * margins.sin())


def supervised_contrast(hidden: Tensor, label: Tensor) -> Tensor:
    """Mean over all pairs with one label, a question with itself among them, of −log(e^sim / Z).

    sim is the cosine of the pooled outputs (B, H), and Z the sum of e^sim over all pairs in the batch whose labels (B,)
    differ. Questions without a label (−1) are left out. 0, still attached to the graph, where all labels are one.
    """
    label, hidden = labelled_only(label, normalize(hidden, dim=1))
    similarity, same = hidden @ hidden.T, label[:, None] == label
    if same.all():
        return 0 * similarity.sum()
    return similarity[~same].logsumexp(dim=0) - similarity[same].mean()
