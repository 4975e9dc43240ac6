"""Learned-Mixin +H, and the plain product of experts."""

from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, softplus

from cdvqa.objectives.objective import Loss, Objective


class LMH(Objective):
    """Product of the model and the prior, answer by answer, with a learned gate and an entropy penalty.

    With g = softplus(w·h + b), s = σ(a) and, per answer, the two-way scores

        u₁ = g log(p_b + s),      ℓ₁ = log σ(x) + u₁,
        u₀ = g log(1 − p_b + s),  ℓ₀ = log σ(−x) + u₀,

    q is the renormalisation of (ℓ₁, ℓ₀), the task term its binary cross-entropy with the soft target (summed over
    answers), and the entropy term `entropy_weight` times the mean entropy of the renormalised (u₁, u₀).

    Source: Clark et al. (2019), and the code behind Eqs. 5–6. Read literally, those equations take a sigmoid of a
    softmax over answers: with C answers, σ(p̂) lies in [.5, .73], so the loss is bounded below near C·ln 2 and cannot
    teach the model anything.

    Args:
        hidden_size: H, width of `hidden`.
        entropy_weight: weight of the entropy term.
        trainable: whether w, b and a are trained; the authors' runs leave them at their random start.
    """

    needs = frozenset({"prior", "hidden"})
    fresh_in_each_stage = True
    preset_fields = MappingProxyType({"trainable": "lmh_trainable"})

    def __init__(self, hidden_size: int, entropy_weight: float = 0.36, trainable: bool = True) -> None:
        super().__init__()
        self.entropy_weight = entropy_weight
        self.linear = nn.Linear(hidden_size, 1)
        self.smoothing = nn.Parameter(torch.tensor(-1.0))
        self.requires_grad_(trainable)

    def gate(self, hidden: Tensor) -> Tensor:
        """How much the prior is trusted, g (B, 1), from the pooled output (B, H)."""
        return softplus(self.linear(hidden))

    def bias(self, prior: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
        """u₁ and u₀ of each answer, (B, A), from the prior (B, A) and the gate (B, 1)."""
        smoothing = self.smoothing.sigmoid()
        return gate * torch.log(prior + smoothing), gate * torch.log(1 - prior + smoothing)

    def ensemble(self, logits: Tensor, prior: Tensor, hidden: Tensor) -> Tensor:
        """Log-odds ℓ₁ − ℓ₀ of each answer under model and prior together, (B, A)."""
        bias_yes, bias_no = self.bias(prior, self.gate(hidden))
        return logits + bias_yes - bias_no

    def loss(self, logits: Tensor, soft_target: Tensor, prior: Tensor, hidden: Tensor) -> Loss:
        gate = self.gate(hidden)
        bias_yes, bias_no = self.bias(prior, gate)
        task = product_of_experts(logits, soft_target, bias_yes, bias_no)
        entropy = self.entropy_weight * two_way_entropy(bias_yes, bias_no).mean()
        terms, logged = {"task": task, "entropy": entropy}, {"gate": gate.detach().mean()}
        return Loss(task + entropy, terms, len(logits), logged)


class PoE(Objective):
    """Product of experts (Eq. 15): LMH with gate 1 and no entropy term; s stays at LMH's start, σ(−1)."""

    needs = frozenset({"prior"})

    def loss(self, logits: Tensor, soft_target: Tensor, prior: Tensor) -> Loss:
        smoothing = prior.new_tensor(-1.0).sigmoid()
        bias_yes, bias_no = torch.log(prior + smoothing), torch.log(1 - prior + smoothing)
        task = product_of_experts(logits, soft_target, bias_yes, bias_no)
        return Loss(task, {"task": task}, len(logits))


def product_of_experts(logits: Tensor, soft_target: Tensor, bias_yes: Tensor, bias_no: Tensor) -> Tensor:
    """Binary cross-entropy of the soft target with the product of σ(logits) and the bias (log-scores u₁ and u₀)."""
    mixed_yes = logsigmoid(logits) + bias_yes
    mixed_no = logsigmoid(-logits) + bias_no
    normaliser = torch.logaddexp(mixed_yes, mixed_no)
    per_sample = -(soft_target * (mixed_yes - normaliser) + (1 - soft_target) * (mixed_no - normaliser)).sum(dim=1)
    return per_sample.mean()


def two_way_entropy(yes: Tensor, no: Tensor) -> Tensor:
    """Entropy (nats, elementwise) of the two-way distribution with log-scores `yes` and `no`."""
    normaliser = torch.logaddexp(yes, no)
    log_yes, log_no = yes - normaliser, no - normaliser
    return -(log_yes.exp() * log_yes + log_no.exp() * log_no)
