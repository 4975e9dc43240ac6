"""CF-VQA: at test, the direct effect of the question is subtracted from the scores."""

from collections.abc import Callable, Iterable
from functools import reduce
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from cdvqa.objectives.branches import AnsweringBranch
from cdvqa.objectives.objective import LabelledObjective, Loss, labelled_only, mean_or_zero
from cdvqa.objectives.output import Output

FLOOR = 1e-12  # the authors' ε


class CFVQA(LabelledObjective):
    """Counterfactual inference over the logits x, a question branch z_q and a vision branch z_v.

    A fusion h mixes the three: h(x, z_q, z_v) is the total effect. A learned scalar c, 0 at the start, replaces what
    is not seen: h(c, z_q, c) is the direct effect of the question. At test the difference of the two is ranked. The
    loss is the sum of four terms, with one label a:

        CE(h(x, z_q, z_v), a) + CE(W_q z_q + b_q, a) + CE(W_v z_v + b_v, a)
        − Σ_a softmax(h(x, z_q, z_v)) log softmax(h(c, z_q, c)), which trains c alone.

    Without the vision branch ("simple" in the authors' code) z_v, its term and the second c are left out.

    Both branches and c are used at test, so they are a part of the network. The layers W, b are used in training alone
    and are saved beside it.

    Source: Niu et al. (2021), yuleiniu/cfvqa. They draw the label in proportion to the human answers; here it is the
    one of highest soft score.

    Args:
        question_size: Hq, width of `question`.
        vision_size: Hv, width of `vision`.
        num_answers: A.
        fusion: `sum`, h = log(σ(Σ z) + ε); or `hm`, h = log(Π + ε) − log(1 + Π) with Π the product of all σ(z).
        vision: whether there is a vision branch.
        width: of the branches' hidden layers.
    """

    in_network = True

    def __init__(
        self,
        question_size: int,
        vision_size: int,
        num_answers: int,
        fusion: Literal["sum", "hm"] = "sum",
        vision: bool = True,
        width: int = 1024,
    ) -> None:
        super().__init__()
        self.fuse = FUSIONS[fusion]
        sizes = {"question": question_size} | ({"vision": vision_size} if vision else {})
        self.branches = nn.ModuleDict({name: AnsweringBranch(size, width, num_answers) for name, size in sizes.items()})
        self.constant = nn.Parameter(torch.zeros(()))
        self.needs = frozenset({"label", *sizes})
        self.training_only = tuple(f"branches.{name}.answer." for name in sizes)

    def loss(
        self, logits: Tensor, soft_target: Tensor, label: Tensor, question: Tensor, vision: Tensor | None = None
    ) -> Loss:
        seen = [question] if vision is None else [question, vision]
        label, logits, *seen = labelled_only(label, logits, *seen)
        biases, answers = zip(*(branch(rows) for branch, rows in self._pairs(seen)), strict=True)
        total = self.fuse(logits, *biases)
        direct = self.direct_effect(biases[0].detach())
        divergence = -(total.detach().softmax(dim=1) * direct.log_softmax(dim=1)).sum(dim=1)
        scored = {"task": total} | dict(zip(self.branches, answers, strict=True))
        losses = {name: cross_entropy(scores, label, reduction="none") for name, scores in scored.items()}
        terms = {name: mean_or_zero(loss) for name, loss in (losses | {"constant": divergence}).items()}
        logged = {"constant": self.constant.detach()}
        return Loss(sum(terms.values(), logits.new_zeros(())), terms, len(label), logged)

    def direct_effect(self, question_bias: Tensor) -> Tensor:
        """h(c, z_q, c), (B, A), from z_q (B, A): c stands for the logits and for any other branch."""
        return self.fuse(question_bias, *(self.constant for _ in self.branches))

    def scores(self, output: Output) -> Tensor:
        """The total indirect effect, h(x, z_q, z_v) − h(c, z_q, c)."""
        seen: list[Tensor] = [getattr(output, name) for name in self.branches]
        mixed = [super().scores(output), *(branch.bias(rows) for branch, rows in self._pairs(seen))]
        # In bf16 σ is 1 from 6 on, and many answers would tie.
        logits, *biases = (scores.to(self.constant.dtype) for scores in mixed)
        return self.fuse(logits, *biases) - self.direct_effect(biases[0])

    def _pairs(self, seen: list[Tensor]) -> list[tuple[AnsweringBranch, Tensor]]:
        branches = cast(Iterable[AnsweringBranch], self.branches.values())
        return list(zip(branches, seen, strict=True))


def by_sum(*scores: Tensor) -> Tensor:
    """log(σ(Σ z) + ε), (B, A)."""
    return torch.log(reduce(torch.add, scores).sigmoid() + FLOOR)


def harmonic(*scores: Tensor) -> Tensor:
    """log(Π + ε) − log(1 + Π), (B, A), Π being the product of all σ(z)."""
    product = reduce(torch.mul, (score.sigmoid() for score in scores))
    return torch.log(product + FLOOR) - torch.log1p(product)


FUSIONS: dict[str, Callable[..., Tensor]] = {"sum": by_sum, "hm": harmonic}
