"""Threshold selection over the 168 matrices of LXMERT-base, in passes over its scores.

A pass is the fastest of torch.sum, torch.amax and numpy.sum over the same scores with the same threads. The baseline is
the authors' torch.kthvalue, matrix by matrix, which finds the thresholds alone; ours ranks ties as well.
"""

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.record import Record, interleave, write
from cdvqa.backbones import Lxmert
from cdvqa.sparsity import Sparsity, attach_masks, binary_masks, reset_thresholds
from cdvqa.sparsity.masks.matrices import masked_matrices
from cdvqa.sparsity.reset import rankings
from cdvqa.sparsity.selection.threshold import select_each

PLANS = {
    "uniform": Sparsity(overall=0.7),
    "modality": Sparsity(overall=0.7, assignment="modality", language=0.8, vision=0.5),
    "global": Sparsity(overall=0.7, assignment="global"),
}
SCORES: dict[str, float] = {"just initialised (two values)": 0, "half tied, half spread": 0.5, "spread": 1}
"""Share of the rows of each matrix whose scores have moved away from their two initial values."""
REPEATS = 5
NOTE = (
    "A pass is the fastest of `torch.sum`, `torch.amax` and `numpy.sum` over the same scores with the same threads. "
    "`select` finds every threshold and ranks the ties; `reset` is the whole of `reset_thresholds`: it selects, "
    "writes the rules, counts zeros before and after, counts flips and packs the masks. The baseline, "
    "`torch.kthvalue`, finds thresholds only. 70 % zeros, fp32, medians."
)


def main() -> None:
    records = []
    for name, plan in PLANS.items():
        torch.manual_seed(0)
        model = masked_lxmert(plan)
        for scores, moved in SCORES.items():
            spread(model, moved)
            for threads in (1, 2):
                torch.set_num_threads(threads)
                case = f"{name}, {scores}, {threads} thread{'s' if threads > 1 else ''}"
                records += measure(model, case, with_baseline=name == "uniform")
    write("threshold", sorted(records, key=lambda record: not record.goal), NOTE)


def masked_lxmert(plan: Sparsity) -> Lxmert:
    """LXMERT-base with random weights and masks as just initialised, 207 M scores."""
    model = Lxmert(2274, pretrained=None)
    groups = model.matrices()
    counts = {modality: sum(model.get_parameter(name).numel() for name in names) for modality, names in groups.items()}
    rates = plan.rates(counts)
    attach_masks(model, groups, rates, assignment=plan.assignment, overall=plan.overall, dead=model.dead())
    return model


@torch.no_grad()
def spread(model: Lxmert, share: float) -> None:
    """Move the scores of the last rows of each matrix; the first stay, like embedding rows that no question touches."""
    for mask in binary_masks(model).values():
        rows = mask.score[round(len(mask.score) * (1 - share)) :]
        rows.add_(torch.randn_like(rows), alpha=0.005)


def measure(model: Lxmert, case: str, with_baseline: bool) -> list[Record]:
    """Selection and whole reset against passes over the same scores."""
    scores = [mask.score.detach() for mask in binary_masks(model).values()]
    arrays = [score.numpy() for score in scores]
    ranked = [ranking for _, ranking in rankings(masked_matrices(model))]

    def each(function: Callable[[Any], Any], parts: list[Any]) -> Callable[[], Any]:
        return lambda: [function(part) for part in parts]

    times = interleave(
        {
            "torch.sum": each(torch.sum, scores),
            "torch.amax": each(torch.amax, scores),
            "numpy.sum": each(lambda array: array.sum(), arrays),
            "select": lambda: select_each(ranked),
            "reset": lambda: reset_thresholds(model),
        },
        REPEATS,
    )
    one_pass = min(times[name].median for name in ("torch.sum", "torch.amax", "numpy.sum"))
    baseline = None
    if with_baseline:
        kthvalue = each(lambda ranking: ranking.scores[0].view(-1).kthvalue(ranking.zeros), ranked)
        baseline = interleave({"kthvalue": kthvalue}, repeats=1, warmup=0)["kthvalue"].median
    select, reset = (times[name].median for name in ("select", "reset"))
    return [
        Record(f"select: {case}", select, "s", baseline, one_pass, against="limit", goal="<= 40"),
        Record(f"reset: {case}", reset, "s", None, one_pass, against="limit"),
    ]


if __name__ == "__main__":
    main()
