"""Inputs of objectives in tests: the authors' arrays, or random numbers for whatever they need."""

import json
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cdvqa.data.answers.prior import answer_counts
from cdvqa.data.answers.targets import SoftTargets
from cdvqa.data.answers.vocabulary import AnswerVocabulary
from cdvqa.data.questions.annotations import Annotations
from cdvqa.objectives import Objective, Output, Progress, make_objective

SIZES = {"hidden_size": 3, "num_answers": 4, "question_size": 5, "vision_size": 6}


def double(array: np.ndarray, *, grad: bool = False) -> Tensor:
    return torch.tensor(np.asarray(array, dtype=np.float64), requires_grad=grad)


def cases(arrays: dict[str, np.ndarray], key: str) -> list[str]:
    return sorted({name.split("_")[0] for name in arrays if name.endswith(key)})


def assert_close(actual: Tensor | None, expected: np.ndarray) -> None:
    assert actual is not None
    np.testing.assert_allclose(actual.detach().numpy().reshape(np.shape(expected)), expected, rtol=1e-6, atol=1e-9)


def made(name: str, **options: Any) -> Objective:
    """An objective of `SIZES`, with the random numbers of a step and, if it takes a teacher, one trained with LMH."""
    torch.manual_seed(0)
    objective = make_objective(name, **SIZES, **options)
    objective.generator = torch.Generator().manual_seed(0)
    objective.take_teacher(lambda: make_objective("lmh", SIZES["hidden_size"]))
    return objective


def given(objective: Objective, dtype: torch.dtype = torch.float64, rows: int = 3) -> dict[str, Any]:
    """All that an objective may be given of a few questions, the last without a label; logits of its own head."""
    torch.manual_seed(0)
    head = objective.head(SIZES["hidden_size"], SIZES["num_answers"])
    hidden, answers = torch.randn(rows, SIZES["hidden_size"], dtype=dtype), SIZES["num_answers"]
    logits = torch.randn(rows, answers, dtype=dtype) if head is None else head.to(dtype)(hidden)

    def labelled(two: list[list[float]]) -> Tensor:
        """Two rows in turn, and zeros in the last one."""
        return torch.tensor([*(two[row % 2] for row in range(rows - 1)), [0.0] * answers], dtype=dtype)

    soft_target = labelled([[0, 1, 0.3, 0], [0.6, 0, 0, 0.9]])
    return {
        "logits": logits,
        "soft_target": soft_target,
        "prior": torch.rand(rows, answers, dtype=dtype),
        "hidden": hidden,
        "label": torch.where(soft_target.any(dim=1), soft_target.argmax(dim=1), -1),
        "question": torch.randn(rows, SIZES["question_size"], dtype=dtype),
        "vision": torch.randn(rows, SIZES["vision_size"], dtype=dtype),
        "counts": labelled([[0, 70, 9, 60], [500, 0, 0, 20]]),
        "teacher": Output(torch.randn(rows, answers, dtype=dtype), torch.randn_like(hidden)),
        "views": {name: Output(torch.randn_like(logits), torch.randn_like(hidden)) for name in objective.views},
        "progress": Progress(3, 40, 1, 20),
    }


def table(arrays: dict[str, np.ndarray]) -> tuple[Tensor, Tensor]:
    """Counts and soft targets of the authors' samples, (B, A) both, as cdvqa has them from the annotations."""
    annotations = Annotations.of(json.loads(str(arrays["table_annotations"])))
    vocabulary = AnswerVocabulary(json.loads(str(arrays["table_vocabulary"])))
    types, rows = annotations.question_type, arrays["table_rows"]
    counts = answer_counts(annotations, vocabulary, types.names)[types.codes[rows]]
    targets = SoftTargets.from_annotations(annotations, vocabulary, "clark").dense(rows)
    np.testing.assert_allclose(targets, arrays["table_target"], rtol=1e-6)
    return double(counts), double(arrays["table_target"])
