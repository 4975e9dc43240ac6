"""One file per data set: its files, its splits, and which test sets are in or out of distribution."""

from cdvqa.data.datasets.data_set import DataSet, SplitFiles, made_by
from cdvqa.data.datasets.gqaood import GQAOOD
from cdvqa.data.datasets.vqa2 import VQA2
from cdvqa.data.datasets.vqace import VQACE
from cdvqa.data.datasets.vqacp import VQACP
from cdvqa.data.datasets.vqavs import VQAVS
from cdvqa.registry import find_class

__all__ = [
    "DATA_SETS",
    "GQAOOD",
    "VQA2",
    "VQACE",
    "VQACP",
    "VQAVS",
    "DataSet",
    "SplitFiles",
    "made_by",
    "make_data_set",
]

DATA_SETS: dict[str, type[DataSet]] = {
    "vqacp": VQACP,
    "vqavs": VQAVS,
    "vqa2": VQA2,
    "vqace": VQACE,
    "gqaood": GQAOOD,
}


def make_data_set(layout: str) -> DataSet:
    """The data set that `data.layout` names, by short name or by class path; InputError if it is none."""
    return find_class("data.layout", layout, DATA_SETS, DataSet)()
