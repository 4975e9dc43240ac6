"""What of CF-VQA ships with the network, and which backbones and settings the objectives with branches refuse."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cdvqa.cli import main
from cdvqa.sparsity import Subnetwork
from tests.objectives.test_training import SHORT, counted, run_of

Command = Callable[..., int]
BAG = str(Path(__file__).parents[2] / "extending" / "backbone.yaml")  # it provides the question alone
CF_VQA = ["--model.objective=cf_vqa", "--model.objective_options={width: 32}"]


def test_what_answers_is_in_the_network_and_counted_and_the_rest_beside_it(
    cdvqa: Command, capsys: pytest.CaptureFixture[str]
):
    assert cdvqa("fit", "stage1_bce.yaml", *CF_VQA, *SHORT) == 0
    assert cdvqa("test", "stage1_bce.yaml", *CF_VQA) == 0
    first = run_of(1)
    state = Subnetwork.load(first / "model.safetensors").state
    own = {name: value for name, value in state.items() if name.startswith("objective.")}
    beside = load_file(first / "objective.safetensors")
    assert {name.split(".")[3] for name in own if "branches" in name} == {"bias"} and "objective.constant" in own
    layers = {f"branches.{name}.answer.{kind}" for name in ("question", "vision") for kind in ("weight", "bias")}
    assert beside.keys() == layers
    assert cdvqa("fit", "stage1_bce.yaml", "--seed_everything=1", *SHORT) == 0
    (plain,) = Path("logs/scenes/lxmert").glob("stage1_bce-*/seed1")
    assert counted(first) - counted(plain) == sum(value.numel() for value in own.values())

    # The next stage starts from both files.
    still = [*CF_VQA, "--model.objective_lr=1e-12"]
    assert cdvqa("fit", "stage2_bce.yaml", *still, *SHORT) == 0
    torch.testing.assert_close(load_file(run_of(2) / "objective.safetensors"), beside, rtol=0, atol=1e-9)
    later = Subnetwork.load(run_of(2) / "subnetwork.safetensors").state
    torch.testing.assert_close({name: later[name] for name in own}, own, rtol=0, atol=1e-9)

    # Exported networks answer with it, and are compared with all that answers.
    assert main(["export", str(first), "--measure=false"]) == 0
    (ratio,) = re.findall(r"MB, ([\d.]+) of all parameters", capsys.readouterr().out)
    size = (first / "export" / "fp32" / "subnetwork.safetensors").stat().st_size
    everything = sum(value.numel() for value in state.values() if value.is_floating_point())
    assert float(ratio) == pytest.approx(size / 4 / everything, rel=0.01)
    assert main(["export", str(first), "--to=huggingface"]) == 2
    assert "its objective has a part in the answer; export it with --to subnetwork" in capsys.readouterr().err

    # The network alone is enough to answer.
    (run_of(2) / "objective.safetensors").unlink()
    assert cdvqa("test", "stage2_bce.yaml", *still) == 0


def test_a_backbone_without_what_an_option_asks_for_is_refused_by_name(
    cdvqa: Command, capsys: pytest.CaptureFixture[str]
):
    assert cdvqa("fit", "stage1_bce.yaml", BAG, *CF_VQA, *SHORT) == 2
    assert "cf_vqa needs `vision`, which bag does not provide" in capsys.readouterr().err.splitlines()[-1]
    assert cdvqa("fit", "stage1_bce.yaml", BAG, *CF_VQA, "--model.objective_options.vision=false", *SHORT) == 0


def test_a_generative_backbone_takes_none_of_them(cdvqa: Command, capsys: pytest.CaptureFixture[str]):
    for name in ("rubi_q", "lpf_q", "cf_vqa", "gge"):
        assert cdvqa("fit", "stage1_ce.yaml", "mplug.yaml", f"--model.objective={name}") == 2
        assert f"mplug does not take {name}, only ce, lpf" in capsys.readouterr().err.splitlines()[-1]


def test_two_halves_of_a_step_are_not_accumulated(cdvqa: Command, capsys: pytest.CaptureFixture[str]):
    flags = ["--model.objective=gge", "--trainer.accumulate_grad_batches=2", *SHORT]
    assert cdvqa("fit", "stage1_bce.yaml", *flags, "--model.objective_options.mode=dq_iter") == 2
    assert "--trainer.accumulate_grad_batches: gge depends on the whole batch" in capsys.readouterr().err
