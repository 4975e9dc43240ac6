"""The rows of the paper's Tables 1 and 2, and our runs beside them."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import pandas as pd

from cdvqa.studies.report.table import Filter, select, spread

MEGA = 2**20  # the paper's "M"
NOT_RUN = "not run"
NO_CODE = "not run: no public code"
REAL = ("vqacp2", "vqavs")  # the data sets of the paper; on others only differences can be compared


class Published(NamedTuple):
    """One row of a table.

    Attributes:
        scores: accuracies in percent, in the order of the table's columns; None where the paper has none.
        ours: picks our runs of it; None if the method's code is not public.
    """

    method: str
    backbone: str
    parameters: str
    scores: Sequence[float | None]
    ours: Filter | None = None


class PaperTable(NamedTuple):
    """A table of the paper; `columns` are its columns in the paper, each with that of the table of runs."""

    title: str
    columns: dict[str, str]
    rows: Sequence[Published]


def full(backbone: str, *objectives: str, **options: str) -> Filter:
    """Our full model with one of these objectives, and these options of it."""
    chosen = {f"model.objective_options.{name}": value for name, value in options.items()}
    return {"backbone": backbone, "method": "full", "pipeline": list(objectives), **chosen}


lxmert, updn, smrl = (partial(full, backbone) for backbone in ("lxmert", "updn", "smrl"))


def pruned(pipeline: str, kept: int, backbone: str = "lxmert", assignment: str = "modality") -> Filter:
    """Our subnetwork by mask training, of which `kept` percent are kept."""
    zeros = round(1 - kept / 100, 2)
    own = {"backbone": backbone, "method": "mask", "pipeline": pipeline}
    return {**own, "assignment": assignment, "module": "all", "sparsity": zeros}


TABLES = {
    "vqacp": PaperTable(
        "Table 1",
        {"All": "ood", "Y/N": "yes/no", "Num": "number", "Other": "other"},
        (
            Published("RUBi (Cadene et al., 2019)", "S-MRL", "~60M", (47.11, 68.65, 20.28, 43.18), smrl("rubi_q")),
            Published("VGQE (Kv and Mittal, 2020)", "S-MRL", "~60M", (50.11, 66.35, 27.08, 46.77)),
            Published("LPF (Liang et al., 2021b)", "S-MRL", "~60M", (53.38, 88.06, 25.00, 42.99), smrl("lpf_q")),
            Published("CF-VQA (Niu et al., 2021)", "S-MRL", "~60M", (55.05, 90.61, 21.50, 45.61), smrl("cf_vqa")),
            Published("AdvReg. (Ramakrishnan et al., 2018)", "UpDn", "35M", (41.17, 65.49, 15.48, 35.48)),
            Published("GRL (Grand and Belinkov, 2019)", "UpDn", "35M", (42.33, 59.74, 14.78, 40.76), updn("grl")),
            Published(
                "RUBi (Cadene et al., 2019)", "UpDn", "35M", (44.23, 67.05, 17.48, 39.61), updn("rubi_q", "rubi")
            ),
            Published(
                "Loss-Rescaling (Guo et al., 2021)", "UpDn", "35M", (47.09, 68.42, 21.71, 42.88), updn("rescale")
            ),
            Published("VGQE (Kv and Mittal, 2020)", "UpDn", "35M", (48.75, None, None, None)),
            Published("DLR (Jing et al., 2020)", "UpDn", "35M", (48.87, 70.99, 18.72, 45.57)),
            Published("LMH (Clark et al., 2019)", "UpDn", "35M", (52.01, 72.58, 31.12, 46.97), updn("lmh")),
            Published("CF-VQA (Niu et al., 2021)", "UpDn", "35M", (53.55, 91.15, 13.03, 44.97), updn("cf_vqa")),
            Published("LPF (Liang et al., 2021b)", "UpDn", "35M", (55.34, 88.61, 23.78, 46.57), updn("lpf_q", "lpf")),
            Published(
                "LMH+MMBS (Si et al., 2022a)", "UpDn", "35M", (56.44, 76.00, 43.77, 49.67), updn("mmbs", base="lmh")
            ),
            Published(
                "CGE (Han et al., 2021)", "UpDn", "35M", (57.32, 87.04, 27.75, 49.59), updn("gge", mode="dq_iter")
            ),
            Published("BCE", "full lxmert", "202M", (48.01, 48.24, 20.04, 55.57), lxmert("bce")),
            Published("LPF", "full lxmert", "202M", (62.68, 87.57, 51.98, 52.58), lxmert("lpf")),
            Published("LMH", "full lxmert", "202M", (63.55, 81.84, 55.00, 56.32), lxmert("lmh")),
            Published("lpf+lmh (Ours)", "10% lxmert", "24M", (59.05, 75.08, 37.12, 51.17), pruned("lpf+lmh", 10)),
            Published("lpf+lmh (Ours)", "30% lxmert", "64M", (64.02, 79.99, 63.38, 56.35), pruned("lpf+lmh", 30)),
            Published("lpf+lmh (Ours)", "50% lxmert", "103M", (66.07, 84.70, 63.71, 56.95), pruned("lpf+lmh", 50)),
            Published("CE", "full mPLUG", "350M", (57.05, None, None, None), full("mplug", "ce")),
            Published("LPF", "full mPLUG", "350M", (65.24, None, None, None), full("mplug", "lpf")),
            Published(
                "ce+lpf (Ours)",
                "~50% mPLUG",
                "182M",
                (62.53, None, None, None),
                pruned("ce+lpf", 50, "mplug", "uniform"),
            ),
            Published(
                "lpf+lpf (Ours)",
                "~50% mPLUG",
                "182M",
                (63.66, None, None, None),
                pruned("lpf+lpf", 50, "mplug", "uniform"),
            ),
        ),
    ),
    "vqavs": PaperTable(
        "Table 2",
        {"ID": "id", "OOD-mean": "ood"},
        (
            Published("Cross Entropy", "S-MRL", "~60M", (62.03, 42.65), smrl("ce")),
            Published("RUBi (Cadene et al., 2019)", "S-MRL", "~60M", (59.09, 38.73), smrl("rubi_q")),
            Published("Cross Entropy", "UpDn", "35M", (65.20, 46.80), updn("ce")),
            Published("LPF (Liang et al., 2021b)", "UpDn", "35M", (54.72, 43.31), updn("lpf_q", "lpf")),
            Published("LMH (Clark et al., 2019)", "UpDn", "35M", (56.89, 45.85), updn("lmh")),
            Published("BCE", "full lxmert", "202M", (72.24, 53.92), lxmert("bce")),
            Published("RUBi", "full lxmert", "202M", (69.49, 50.07), lxmert("rubi")),
            Published("LPF", "full lxmert", "202M", (68.48, 50.83), lxmert("lpf")),
            Published("LMH", "full lxmert", "202M", (70.22, 54.41), lxmert("lmh")),
            Published("bce+bce (Ours)", "10% lxmert", "24M", (67.28, 48.77), pruned("bce+bce", 10)),
            Published("bce+bce (Ours)", "30% lxmert", "64M", (70.89, 53.06), pruned("bce+bce", 30)),
            Published("bce+bce (Ours)", "50% lxmert", "103M", (71.33, 53.42), pruned("bce+bce", 50)),
            Published("bce+bce (Ours)", "70% lxmert", "143M", (71.85, 53.51), pruned("bce+bce", 70)),
            Published("bce+bce (Ours)", "90% lxmert", "183M", (71.85, 53.87), pruned("bce+bce", 90)),
            Published("lmh+lmh (Ours)", "10% lxmert", "24M", (58.42, 46.39), pruned("lmh+lmh", 10)),
            Published("lmh+lmh (Ours)", "30% lxmert", "64M", (69.34, 53.59), pruned("lmh+lmh", 30)),
            Published("lmh+lmh (Ours)", "50% lxmert", "103M", (70.66, 54.31), pruned("lmh+lmh", 50)),
            Published("lmh+lmh (Ours)", "70% lxmert", "143M", (71.56, 54.34), pruned("lmh+lmh", 70)),
            Published("lmh+lmh (Ours)", "90% lxmert", "183M", (71.97, 54.75), pruned("lmh+lmh", 90)),
        ),
    ),
}


def paper_table(runs: pd.DataFrame) -> PaperTable | None:
    """The paper's table on data in the files of VQA-CP v2 or VQA-VS, as these runs have them; otherwise None."""
    return TABLES.get(runs["settings"].iloc[0].get("data.layout", "vqacp"))


def beside_published(runs: pd.DataFrame, table: PaperTable) -> pd.DataFrame:
    """Our mean ± standard deviation over seeds beside every row of a table of the paper.

    Args:
        runs: tested runs of one data set.
        table: the paper's.
    """
    rows = []
    for published in table.rows:
        given = ["-" if score is None else f"{score:.2f}" for score in published.scores]
        paper = {"method": published.method, "backbone": published.backbone, "params": published.parameters}
        paper |= dict(zip(table.columns, given, strict=True))
        rows += [paper | cells for cells in our_cells(runs, published, table)]
    return pd.DataFrame(rows)


def our_cells(runs: pd.DataFrame, published: Published, table: PaperTable) -> Iterator[dict[str, Any]]:
    """Our cells of a row; several where runs with different settings match it."""
    if published.ours is None:
        yield our_row(table, NO_CODE)
        return
    found = select(runs, published.ours)
    if found.empty:
        yield our_row(table, NOT_RUN)
    for (curve, _), seeds in found.groupby(["curve", "run"], sort=False):
        cells = our_row(table, "")
        cells["our params"] = mega(seeds["kept"].mean())
        for name, column in table.columns.items():
            cells[f"our {name}"] = spread(seeds[column]) if column in seeds else ""
        cells |= {"seeds": str(len(seeds)), "selected on": ", ".join(sorted(set(seeds["selection"])))}
        yield cells | ({"our run": str(curve)} if found["run"].nunique() > 1 else {})


def our_row(table: PaperTable, mark: str) -> dict[str, str]:
    """Our cells, all with the same mark."""
    return dict.fromkeys(["our params", *(f"our {name}" for name in table.columns), "seeds", "selected on"], mark)


def mega(parameters: float) -> str:
    """A number of parameters in units of 2^20."""
    number = parameters / MEGA
    return "" if number != number else f"{number:.1f}M" if number >= 10 else f"{number:.2f}M"
