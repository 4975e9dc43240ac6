"""Where each data set keeps its official files under `data.root`."""

from pathlib import Path
from typing import Literal, NamedTuple, get_args

from cdvqa.data.questions.archives import find, locate
from cdvqa.data.questions.official import read_question_ids
from cdvqa.errors import InputError

Layout = Literal["vqacp", "vqavs", "vqa2"]


class SplitFiles(NamedTuple):
    """The two official files of a split, relative to the root."""

    questions: str
    annotations: str


def _vqacp(split: str) -> SplitFiles:
    return SplitFiles(f"vqacp_v2_{split}_questions.json", f"vqacp_v2_{split}_annotations.json")


def _vqavs(folder: str) -> SplitFiles:
    return SplitFiles(f"{folder}/{folder}-Ques.json", f"{folder}/{folder}-Ans.json")


def _vqa2(split: str) -> SplitFiles:
    return SplitFiles(f"v2_OpenEnded_mscoco_{split}_questions.json", f"v2_mscoco_{split}_annotations.json")


# Every layout has `train`, and `dev` where the data set has its own (the others hold it out of train). The rest are
# test splits, in the order in which they are reported.
_SPLITS: dict[Layout, dict[str, SplitFiles]] = {
    "vqacp": {"train": _vqacp("train"), "id": _vqacp("id"), "test": _vqacp("test")},
    "vqavs": {"train": _vqavs("Training"), "dev": _vqavs("Val"), "iid": _vqavs("IID-Test")},
    "vqa2": {"train": _vqa2("train2014"), "test": _vqa2("val2014")},
}
_OPTIONAL = {"id"}  # VQA-CP v2 itself has none; the embedded worlds do
OOD_SETS = ("QT", "KW", "KWP", "QT+KW", "KO", "KOP", "QT+KO", "KW+KO", "QT+KW+KO")


def split_files(layout: Layout, root: str | Path) -> dict[str, SplitFiles]:
    """The splits of a data set and their files; an optional split is listed only where its questions exist.

    Raises:
        InputError: the layout is unknown or the root is no folder.
    """
    if layout not in _SPLITS:
        raise InputError(f"data.layout {layout!r} is unknown; use one of {', '.join(get_args(Layout))}")
    if not Path(root).is_dir():
        raise InputError(f"data.root {root}: no such folder; point --data.root at the official question files")
    return {
        split: files
        for split, files in _SPLITS[layout].items()
        if split not in _OPTIONAL or find(root, files.questions) is not None
    }


def ood_file(root: str | Path, name: str) -> Path:
    """The questions file of one of VQA-VS's nine OOD test sets."""
    return Path(root) / "OOD-Test" / name / f"OOD-Test-{name}-Ques.json"


def read_ood_question_ids(root: str | Path) -> dict[str, set[int]]:
    """Question ids of the nine OOD test sets of VQA-VS, all of them parts of its IID-Test."""
    return {name: read_question_ids(locate(root, ood_file("", name).as_posix())) for name in OOD_SETS}
