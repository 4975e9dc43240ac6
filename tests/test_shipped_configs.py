"""Every shipped config trains: one step of a tiny model on the small world."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from cdvqa.cli import main
from cdvqa.cli.configs import shipped, shipped_configs
from tests.conftest import CONF, overlay

STEP = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=1", "--trainer.log_every_n_steps=1", "--quiet"]
STAGES = ["FineTune", "MaskTrain", "FurtherFineTune"]
NAMES = {"Lxmert": "tiny", "VisualBert": "visualbert", "Mplug": "mplug", "UpDn": "updn", "Smrl": "smrl"}


def settings_of(name: str, capsys: pytest.CaptureFixture[str]) -> tuple[list[str], dict[str, Any]]:
    """A command line that trains by this config, an overlay over stage 1, and all its settings."""
    base = [] if "stage" in name or (shipped() / "paper" / name).exists() else ["--config", "stage1_bce.yaml"]
    if base and name.endswith("mplug.yaml"):
        base = ["--config", "stage1_ce.yaml"]
    args = [*base, "--config", name]
    assert main(["fit", *args, "--print_config"]) == 0
    config: dict[str, Any] = yaml.safe_load(capsys.readouterr().out)
    return args, config["model"]


def tiny(model: dict[str, Any], world: Path) -> list[str]:
    """What makes a config tiny: data, and the sizes of its backbone. Its objective stays."""
    backbone = NAMES[model["init_args"]["backbone"]["class_path"].rpartition(".")[2]]
    sizes = [] if backbone == "tiny" else ["--config", str(CONF / f"{backbone}.yaml")]
    return [*overlay(world), "--data.min_count=9", "--data.tokenizer=null", *sizes, *STEP]


def train(args: list[str]) -> Path:
    """Fit; return the run's folder, of which there is one more than before."""
    before = set(Path().glob("logs/*/*/*/*/run.json"))
    assert main(["fit", *args]) == 0
    (new,) = set(Path().glob("logs/*/*/*/*/run.json")) - before
    return new.parent


def parent(model: dict[str, Any], world: Path) -> list[str]:
    """A run that a config of stage 2 or 3 can start from; it is trained here."""
    stage, settings = STAGES.index(model["class_path"].rpartition(".")[2]), model["init_args"]
    if stage == 0:
        return []
    objective = (settings["parent_objective"] or settings["objective"] or "bce").split("+")[0]
    size = [*tiny(model, world), f"--model.objective={objective}"]
    folder = train(["--config", "stage1_bce.yaml", *size])
    if stage == 2:
        folder = train(["--config", "stage2_bce.yaml", *size, f"--model.init_from={folder}"])
    return [f"--model.init_from={folder}"]


@pytest.mark.parametrize("path", shipped_configs(), ids=lambda path: path.name)
def test_a_step(
    path: Path, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    args, model = settings_of(path.name, capsys)
    objective = model["init_args"]["objective"]
    asked = [f"--model.objective={objective}"] if objective else []
    run = train([*args, *tiny(model, scenes), *asked, *parent(model, scenes)])
    assert json.loads((run / "run.json").read_text())["finished"]
    assert list(run.glob("*.safetensors"))
