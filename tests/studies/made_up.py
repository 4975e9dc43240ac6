"""Runs that were never trained: records and results alone."""

from pathlib import Path
from typing import Any

import numpy as np

from cdvqa.files import write_json
from cdvqa.runs.folder import Run
from cdvqa.studies.sweep.scores import packed

IDS = np.arange(100, 500)  # of the questions of `line`


def make_run(logs: Path, name: str, seed: int = 0, results: dict[str, Any] | None = None, **record: Any) -> Run:
    """A run folder with records alone."""
    run = Run(logs / "d" / "b" / name / f"seed{seed}")
    base = {"stage": 1, "seed": seed, "identity": name, "settings": {"model.lr": 1e-3}, "pipeline": ["bce"]}
    base |= {"sparsity": None, "selection": "dev", "started": "then", "finished": "now"}
    base |= {"parameters": {"full": 100, "kept": 100}}
    write_json(run.record, base | record)
    if results is not None:
        write_json(run.results, results)
    return run


def scored(ood: float, name: str = "test", distribution: str = "ood", **more: Any) -> dict[str, Any]:
    return {"selection": "dev", "means": {}, "splits": {name: {"all": ood, "distribution": distribution}}} | more


def pruned(overall: float, lr: float = 1e-3, **plan: Any) -> dict[str, Any]:
    """The record of a subnetwork."""
    plan = {"method": "mask", "assignment": "uniform", "overall": overall, "language": overall} | plan
    settings = {"model.lr": lr, "model.sparsity.zeros.language": int(1000 * overall)}
    settings |= {f"model.sparsity.{name}": plan[name] for name in ("assignment", "scores") if name in plan}
    return {"stage": 2, "pipeline": ["bce", "lmh"], "sparsity": plan, "settings": settings}


def line(pipeline: str, seed: int = 0, right: Any = None, zeros: float | None = None, **more: Any) -> dict[str, Any]:
    """A record as `line_of` makes it, with the scores of 400 questions: half yes/no, half number.

    Args:
        pipeline: objectives joined by +; with one objective it is a full model.
        seed: its seed.
        right: (400,) score of each question in thirds; None leaves single scores out.
        zeros: its sparsity.
        more: further fields, and those of the sparsity under `plan`.
    """
    thirds = np.full(len(IDS), 3) if right is None else np.asarray(right)
    accuracy = {
        "all": float(100 * thirds.mean() / 3),
        "yes/no": float(100 * thirds[:200].mean() / 3),
        "number": float(100 * thirds[200:].mean() / 3),
        "n": {"all": len(IDS), "yes/no": 200, "number": 200},
    }
    shares = dict.fromkeys(("language", "vision", "cross"), zeros)
    plan = {"method": "mask", "assignment": "uniform", "criterion": "magnitude", "overall": zeros, **shares}
    plan = None if zeros is None else plan | more.pop("plan", {})
    bits = {"yes/no": IDS < 300, "number": IDS >= 300}
    scores = {
        "question_id": packed(np.diff(IDS, prepend=0)),
        "thirds": packed(thirds.astype(np.uint8)),
        "answer_types": {name: packed(np.packbits(mask)) for name, mask in bits.items()},
        "sets": {},
    }
    name = f"{pipeline}-{zeros}-{'-'.join(map(str, (plan or {}).values()))}"
    return {
        "data": "scenes",
        "backbone": "lxmert",
        "run": name,
        "identity": name,
        "stage": 1 if plan is None else 2,
        "seed": seed,
        "settings": {"data.layout": "vqacp", "model.selection": "dev"},
        "pipeline": pipeline.split("+"),
        "sparsity": plan,
        "selection": "dev",
        "parent": None,
        "finished": "now",
        "parameters": {"full": 2**20, "kept": round(2**20 * (1 - (zeros or 0)))},
        "results": {"selection": "dev", "means": {}, "splits": {"test": {**accuracy, "distribution": "ood"}}},
        "scores": {} if right is None else {"test": scores},
        **more,
    }


def first(right: int) -> list[int]:
    """Scores of the questions in thirds: the first so many are right, the others wrong."""
    return [3] * right + [0] * (len(IDS) - right)
