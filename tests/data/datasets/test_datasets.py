"""The data sets: their files, which test sets are in or out of distribution, and the means over them."""

import shutil

import numpy as np
import pytest

from cdvqa.data.datasets import VQACP, DataSet, SplitFiles, make_data_set
from cdvqa.data.datasets.vqavs import OOD_SETS
from cdvqa.errors import InputError
from cdvqa.metrics import set_means
from tests.data.toy import dump, split, write_toy


class Shelf(DataSet):
    """Two test sets out of distribution, one in it."""

    def splits(self):
        return {name: SplitFiles("q", "a", kind) for name, kind in (("train", None), ("a", "id"), ("b", "ood"))} | {
            "c": SplitFiles("q", "a", "ood")
        }


@pytest.mark.parametrize(
    ("layout", "distributions", "has_dev"),
    [
        ("vqacp", {"id": "id", "test": "ood"}, False),
        ("vqa2", {"test": "id"}, False),
        ("vqavs", {"iid": "id"} | dict.fromkeys(OOD_SETS, "ood"), True),
        ("vqace", {"all": "mixed", "counterexamples": "ood", "easy": "id"}, False),
        ("gqaood", {"all": "mixed", "head": "id", "tail": "ood"}, True),
    ],
)
def test_a_data_set_says_what_is_out_of_distribution(layout, distributions, has_dev):
    data_set = make_data_set(layout)
    assert data_set.distributions() == distributions and data_set.has_dev == has_dev


def test_the_means_of_vqa_vs_and_of_any_data_set_with_two_sets_out_of_distribution():
    vqavs = make_data_set("vqavs").means()
    assert len(OOD_SETS) == 9 and set(vqavs["ood_lang"] + vqavs["ood_vis"] + vqavs["ood_crsm"]) == set(OOD_SETS)
    assert make_data_set("vqacp").means() == make_data_set("vqa2").means() == {}
    assert Shelf().means() == {"ood_mean": ["b", "c"]}


def test_a_mean_is_over_rounded_accuracies_and_needs_all_its_sets():
    results = {"a": {"all": 1.0}, "b": {"all": 10.004}, "c": {"all": 20.006}, "empty": {"n": {"all": 0}}}
    assert set_means(results, {"mean": ["b", "c"], "never": ["b", "empty"]}) == {"mean": (10.0 + 20.01) / 2}


def test_an_optional_split_is_left_out_where_it_has_no_questions(tmp_path):
    write_toy(tmp_path)
    assert list(VQACP().present(tmp_path)) == ["train", "test"]
    write_toy(tmp_path, id_test=5)
    assert list(VQACP().present(tmp_path)) == ["train", "id", "test"]
    with pytest.raises(InputError, match="no such folder"):
        VQACP().present(tmp_path / "absent")


def test_a_data_set_is_named_by_short_name_or_class_path():
    assert type(make_data_set(f"{__name__}.Shelf")) is Shelf
    with pytest.raises(InputError, match=r"'gqa' is unknown; use one of vqacp, vqavs, vqa2, vqace, gqaood, or"):
        make_data_set("gqa")
    with pytest.raises(InputError, match=r"DataSet: does not define splits"):
        make_data_set("cdvqa.data.datasets.DataSet")


@pytest.mark.parametrize("packed", [False, True])
def test_question_ids_of_the_sets_inside_a_split(tmp_path, packed):
    for i, name in enumerate(OOD_SETS):
        dump(tmp_path / "OOD-Test" / name / f"OOD-Test-{name}-Ques.json", split(i + 1, 10 * i)[0])
    if packed:
        shutil.make_archive(str(tmp_path / "OOD-Test"), "zip", tmp_path, "OOD-Test")
        shutil.rmtree(tmp_path / "OOD-Test")
    ids = make_data_set("vqavs").read_subsets(tmp_path, "iid", np.arange(100))
    assert len(ids) == 9 and ids["QT+KW"] == set(range(30, 34))
    with pytest.raises(InputError, match=r"Ques\.json: question 80 is not in iid \(9 such questions\)"):
        make_data_set("vqavs").read_subsets(tmp_path, "iid", np.arange(80))
