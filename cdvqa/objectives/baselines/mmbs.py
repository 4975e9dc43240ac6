"""MMBS: a contrast between each question and a form of it that carries less of the bias."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import batch_norm, cross_entropy, normalize

from cdvqa.data.answers.targets import SoftTargets
from cdvqa.data.dataset import Answered, AnsweredView, View
from cdvqa.objectives.bce import BCE
from cdvqa.objectives.lmh import LMH
from cdvqa.objectives.objective import Loss, Objective
from cdvqa.objectives.output import Output

SHARE = 0.6  # β: the largest share of a type's answers that can be unbiased
TEMPERATURE = 0.5  # of the contrastive term


class Positive(AnsweredView):
    """The positive question: without the words of its type (yes/no), or with its words shuffled (number, other).

    A question whose label is one of the least given answers of its type (`unbiased`) stays as it is. So does the text
    of a yes/no question that lacks the string of its type.
    """

    def over(self, answered: Answered) -> Callable[[int, str, np.random.Generator], str]:
        label = top_label(answered.targets)
        kept = unbiased(answered)[answered.question_type.codes, label] & (label >= 0)

        def positive(row: int, question: str, random: np.random.Generator) -> str:
            if kept[row]:
                return question
            if answered.answer_type[row] == "yes/no":
                return question.lower().replace(answered.question_type[row], "")
            words = question.split()
            return " ".join(words[i] for i in random.permutation(len(words)))

        return positive


class MMBS(Objective):
    """BCE or LMH, and the contrast of pooled outputs between each question and its positive form.

    Both forms are batch-normalised without learned factors, each over its own batch, and scaled to length 1. The
    contrastive term is the mean over all 2B of −log softmax(similarity / 0.5) at the other form of the same question,
    among the 2B − 1 others.

    Source: Si et al. (2022) and their code. It runs UpDn with BCE only, and passes the normalised joint vector to its
    classifier as well; here the network stays as it is. LMH's gate is trained, under both presets.

    Args:
        hidden_size: H, width of `hidden`.
        base: the objective of the original question, `bce` or `lmh`.
    """

    needs = frozenset({"prior", "hidden", "views"})
    views: ClassVar[Mapping[str, View]] = MappingProxyType({"positive": Positive()})
    batch_dependent = True
    fresh_in_each_stage = True

    def __init__(self, hidden_size: int, base: Literal["bce", "lmh"] = "bce") -> None:
        super().__init__()
        self.base: Objective = LMH(hidden_size) if base == "lmh" else BCE()

    def loss(
        self, logits: Tensor, soft_target: Tensor, prior: Tensor, hidden: Tensor, views: dict[str, Output]
    ) -> Loss:
        base: Loss = self.base(logits, soft_target, prior=prior, hidden=hidden)
        positive = views["positive"].hidden
        assert positive is not None, "a generative backbone takes ce and lpf only"
        contrast = contrastive(normalised(hidden), normalised(positive))
        return Loss(base.total + contrast, base.terms | {"contrast": contrast}, len(logits), base.logged)


def normalised(vectors: Tensor) -> Tensor:
    """Each entry of (B, H) less its mean over the batch, divided by its standard deviation; 0 for a single vector."""
    return batch_norm(vectors, None, None, training=True) if len(vectors) > 1 else 0 * vectors


def contrastive(vectors: Tensor, positive: Tensor) -> Tensor:
    """InfoNCE of B pairs of vectors (B, H): the 2B − 2 others of the batch are negatives."""
    both = normalize(torch.cat([vectors, positive]), dim=1)
    similarity = (both @ both.T / TEMPERATURE).fill_diagonal_(-torch.inf)
    other = torch.arange(len(both), device=both.device).roll(len(vectors))
    return cross_entropy(similarity, other)


def unbiased(answered: Answered) -> NDArray[np.bool_]:
    """Which answers of each question type the bias says little about, (types, A).

    Of the n answers given in a type, those are the ⌊(1 − e) · 0.6 · n⌋ of least summed soft score; among equal scores
    the answers that appear first. e = σ(H − mean of H over the types), H being the entropy of the scores in bits.
    """
    types, targets = answered.question_type, answered.targets
    type_of_each = np.repeat(types.codes, np.diff(targets.offsets)).astype(np.int64)
    cell_of_each = type_of_each * targets.num_answers + targets.label  # in the flattened table (types, A)
    cells, first, index = np.unique(cell_of_each, return_index=True, return_inverse=True)
    score = np.bincount(index, weights=targets.score.astype(np.float64))
    kinds = cells // targets.num_answers
    share = score / np.bincount(kinds, weights=score)[kinds]
    entropy = np.bincount(kinds, weights=-share * np.log2(share), minlength=len(types.names))
    given = np.bincount(kinds, minlength=len(types.names))
    evenness = 1 / (1 + np.exp(entropy[given > 0].mean() - entropy))
    number = np.floor((1 - evenness) * SHARE * given).astype(int)
    chosen = np.zeros((len(types.names), targets.num_answers), bool)
    order = np.lexsort((first, score))
    for kind, count in enumerate(number):
        chosen.flat[cells[order[kinds[order] == kind][:count]]] = True
    return chosen


def top_label(targets: SoftTargets) -> NDArray[np.int64]:
    """The answer of highest soft score of each question, (N,): among equal ones the lowest index; −1 for none."""
    question = np.repeat(np.arange(len(targets)), np.diff(targets.offsets))
    order = np.lexsort((targets.label, -targets.score, question))
    label = np.full(len(targets), -1, np.int64)
    answered = targets.offsets[:-1] < targets.offsets[1:]
    label[answered] = targets.label[order[targets.offsets[:-1][answered]]]
    return label
