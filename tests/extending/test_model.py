"""Objectives and a backbone outside the package go through `fit` and `test`."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from cdvqa.backbones import Output
from cdvqa.objectives.branches import Branch
from cdvqa.sparsity import Subnetwork
from tests.extending.branch import Counterfactual
from tests.extending.view import shuffled
from tests.test_processes import STILL

Command = Callable[..., int]
HERE = Path(__file__).parent
SHORT = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.log_every_n_steps=1"]


def run_of(stage: int) -> Path:
    (folder,) = Path("logs/scenes").glob(f"*/stage{stage}_*/seed0")
    return folder


def logged(run: Path) -> dict[str, str]:
    """The last value of each metric."""
    return dict(line.split(",")[1:] for line in (run / "metrics.csv").read_text().splitlines())


@pytest.mark.parametrize("name", ["objective", "branch", "view"])
def test_an_objective(cdvqa: Command, name: str):
    config = str(HERE / f"{name}.yaml")
    assert cdvqa("fit", "stage1_bce.yaml", config, *STILL, *SHORT) == 0
    assert cdvqa("test", "stage1_bce.yaml", config, *STILL) == 0
    run = run_of(1)
    assert json.loads((run / "results.json").read_text())["splits"]["test"]["n"]["all"] == 70
    terms = {"objective": {"task"}, "branch": {"task", "question", "constant"}, "view": {"task", "distance"}}[name]
    assert {f"train/loss/{term}" for term in terms} <= logged(run).keys()
    if name == "view":  # without dropout only other words make another output
        assert float(logged(run)["train/loss/distance"]) > 0
    network = Subnetwork.load(run / "model.safetensors")
    assert any(tensor.startswith("objective.branch.") for tensor in network.state) == (name == "branch")
    assert not (run / "objective.safetensors").exists()


def parameters_of_bce(cdvqa: Command) -> int:
    assert cdvqa("fit", "stage1_bce.yaml", "--trainer.max_epochs=0", "--seed_everything=1") == 0
    (record,) = Path("logs/scenes/lxmert").glob("stage1_bce-*/seed1/run.json")
    return json.loads(record.read_text())["parameters"]["full"]


def test_a_branch_goes_through_mask_training_and_its_parameters_are_counted(cdvqa: Command):
    config = str(HERE / "branch.yaml")
    assert cdvqa("fit", "stage1_bce.yaml", config, *SHORT) == 0
    assert cdvqa("fit", "stage2_bce.yaml", config, *SHORT) == 0
    assert cdvqa("test", "stage2_bce.yaml", config) == 0
    assert "objective/without_image" in logged(run_of(2))
    parameters = json.loads((run_of(1) / "run.json").read_text())["parameters"]
    network = Subnetwork.load(run_of(1) / "model.safetensors")
    branch = sum(tensor.numel() for name, tensor in network.state.items() if name.startswith("objective."))
    in_file = sum(tensor.numel() for tensor in network.state.values())
    assert 0 < branch < parameters["full"] == parameters["kept"] < in_file
    assert parameters["full"] - branch == parameters_of_bce(cdvqa)
    # Stage 2 starts from the branch that stage 1 trained.
    files = {1: "model.safetensors", 2: "subnetwork.safetensors"}
    before, after = (Subnetwork.load(run_of(stage) / file).state for stage, file in files.items())
    name = "objective.branch.0.weight"
    assert 0 < (before[name] - after[name]).abs().max() < 0.01


def test_evaluation_ranks_the_scores_of_the_objective(cdvqa: Command, monkeypatch: pytest.MonkeyPatch):
    assert cdvqa("fit", "stage1_bce.yaml", str(HERE / "branch.yaml"), *SHORT) == 0
    answers, own = [], Counterfactual.scores
    for scores in (own, lambda self, output: -own(self, output)):
        with monkeypatch.context() as patch:
            patch.setattr(Counterfactual, "scores", scores)
            assert cdvqa("predict", "stage1_bce.yaml", str(HERE / "branch.yaml")) == 0
        answers.append(json.loads((run_of(1) / "predictions" / "test.json").read_text()))
    assert not any(best["answer"] == worst["answer"] for best, worst in zip(*answers, strict=True))


def test_no_gradient_of_a_branch_reaches_the_backbone_and_scores_are_not_the_logits(monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    objective, layer, inputs = Counterfactual(8, 5), torch.nn.Linear(8, 8), torch.randn(4, 8)
    target = torch.rand(4, 5)

    def gradient() -> torch.Tensor:
        hidden = layer(inputs)
        loss = objective(hidden[:, :5], target, question=hidden).total  # not even if it is handed on with its graph
        (found,) = torch.autograd.grad(loss, layer.weight)
        return found

    whole = gradient()
    forward = Branch.forward
    monkeypatch.setattr(Branch, "forward", lambda self, features: forward(self, features).detach())
    torch.testing.assert_close(gradient(), whole, rtol=0, atol=0)
    logits = torch.randn(4, 5)
    scores = objective.scores(Output(logits, None, question=20 * inputs))
    assert not torch.equal(scores.argsort(dim=1), logits.argsort(dim=1))


def test_a_view_is_a_function_of_the_generator_it_is_given():
    question = "what color is the large cup"
    first, again, other = (shuffled(question, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert first == again != other and sorted(first.split()) == sorted(question.split())


def test_a_backbone(cdvqa: Command, capsys: pytest.CaptureFixture[str]):
    config = str(HERE / "backbone.yaml")
    assert cdvqa("fit", "stage1_lmh.yaml", config, *SHORT) == 0
    assert cdvqa("fit", "stage2_lmh.yaml", config, *SHORT) == 0
    assert cdvqa("test", "stage2_lmh.yaml", config) == 0
    masks = Subnetwork.load(run_of(2) / "subnetwork.safetensors").masks
    assert {name: int((~mask).sum()) for name, mask in masks.items()} == {"words.weight": 2048, "regions.weight": 1024}
    # It provides the question, and an objective that needs what it does not provide is refused by name.
    assert cdvqa("fit", "stage1_bce.yaml", config, str(HERE / "branch.yaml"), *SHORT) == 0
    capsys.readouterr()
    assert cdvqa("fit", "stage1_bce.yaml", config, "--model.objective=tests.objectives.toys.Looks", *SHORT) == 2
    assert "Looks needs `vision`, which bag does not provide" in capsys.readouterr().err
