"""cdvqa in a notebook: train, load, results."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import cdvqa
from cdvqa.errors import InputError
from cdvqa.sparsity import Subnetwork
from tests.conftest import overlay

SHORT = {"trainer__max_epochs": 1, "trainer__limit_train_batches": 2}


@pytest.fixture
def world(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], dict[str, Any]]:
    """Configs and options of the tiny world."""
    monkeypatch.chdir(tmp_path)
    words = overlay(scenes)
    configs = [word for before, word in zip(["", *words], words, strict=False) if before == "--config"]
    pairs = [word.removeprefix("--").split("=", 1) for word in words if "=" in word]
    return configs, {name.replace(".", "__"): yaml.safe_load(value) for name, value in pairs}


def test_two_stages_are_trained_asked_and_tabulated(world, capsys: pytest.CaptureFixture[str]):
    configs, options = world
    first = cdvqa.train(["stage1_bce.yaml", *configs], **options, **SHORT, quiet=True)
    assert capsys.readouterr().out == ""
    assert json.loads((first / "results.json").read_text())["splits"]["test"]["n"]["all"] == 70
    second = cdvqa.train(["stage2_lmh.yaml", *configs], **options, **SHORT, model__parent_objective="bce")

    full, half = cdvqa.load(first), cdvqa.load(second)
    assert full.masks == {} and full.sparsity() == 0 and full.modality_sparsity() == {}
    masks = Subnetwork.load(second / "subnetwork.safetensors").masks
    assert half.masks.keys() == masks.keys()
    zeros = sum(int((~mask).sum()) for mask in masks.values())
    assert half.sparsity() == zeros / sum(mask.numel() for mask in masks.values())
    assert half.modality_sparsity().keys() == {"language", "vision", "cross", "pooler", "overall"}
    assert len(half.answers) == options["data__num_answers"]

    table = cdvqa.results()
    assert list(table["pipeline"]) == ["bce", "bce+lmh"] and list(table["overall"]) == [0, 0.5]
    splits = json.loads((second / "results.json").read_text())["splits"]
    assert table["ood"].iloc[1] == splits["test"]["all"] and table["settings"].iloc[1]["model.objective"] == "lmh"


def test_what_is_wrong_is_raised_as_it_is_meant_to_be_read(world):
    configs, options = world
    with pytest.raises(InputError, match=r"model\.lr: expected a number, got fast"):
        cdvqa.train(["stage1_bce.yaml", *configs], **options, model__lr="fast")
    cdvqa.train(["stage1_bce.yaml", *configs], **options, **SHORT)
    with pytest.raises(InputError, match="holds a finished run; replace it with --overwrite"):
        cdvqa.train(["stage1_bce.yaml", *configs], **options, **SHORT)
    cdvqa.train(["stage1_bce.yaml", *configs], **options, **SHORT, overwrite=True)


def test_a_broken_record_is_left_out_with_a_warning(world, tmp_path):
    with pytest.raises(InputError, match=r"^nope: no such folder; name the one that holds the runs"):
        cdvqa.results("nope")  # an empty table without columns
    with pytest.raises(InputError, match=r"is no run; name the folder of one, which holds its run\.json"):
        cdvqa.load(tmp_path)
    broken = Path("logs/d/b/stage1_bce-00000000/seed0")
    broken.mkdir(parents=True)
    (broken / "run.json").write_text("{")
    with pytest.warns(UserWarning, match="stage1_bce-00000000"):
        assert len(cdvqa.results()) == 0


def test_nothing_heavy_is_imported_and_types_are_exported():
    code = "import sys, cdvqa; sys.exit('torch' in sys.modules or 'pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert (Path(cdvqa.__file__).parent / "py.typed").is_file()
