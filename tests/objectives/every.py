"""Any objective with small branches, and inputs for all that it may need."""

from typing import Any

import torch

from cdvqa.objectives import Objective, Progress, make_objective

SIZES = {"hidden_size": 3, "question_size": 5, "vision_size": 6}


def made(name: str, answers: int = 4, **options: Any) -> Objective:
    torch.manual_seed(0)
    return make_objective(name, num_answers=answers, **SIZES, **options)


def inputs(rows: int = 2, answers: int = 4, dtype: torch.dtype = torch.float64) -> dict[str, Any]:
    """Logits, soft targets and every other input, by name; the last question has no label."""
    torch.manual_seed(1)
    given: dict[str, Any] = {name: torch.rand(rows, answers, dtype=dtype) for name in ("soft_target", "prior")}
    given |= {name: torch.randn(rows, SIZES[f"{name}_size"], dtype=dtype) for name in ("hidden", "question", "vision")}
    given["counts"] = torch.randint(0, 9, (rows, answers)).to(dtype)
    given["label"] = torch.tensor([*torch.randint(0, answers, (rows - 1,)).tolist(), -1])
    return given | {"logits": torch.randn(rows, answers, dtype=dtype), "progress": Progress(0, 6, 0, 3)}
