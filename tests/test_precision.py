"""Scores, rules and losses keep their precision; recomputation and compilation do not show."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.models.lxmert.modeling_lxmert import LxmertLayer

from cdvqa.backbones import Lxmert
from cdvqa.distributed.processes import map_nested
from cdvqa.objectives import OBJECTIVES, Loss
from cdvqa.stages import VQAStage
from tests.objectives.inputs import SIZES, given, made
from tests.test_processes import STILL, witnessed

Command = Callable[..., int]
RUNS = Path("logs/scenes/lxmert")
WITNESS = "--trainer.callbacks+=tests.witness.Witness"


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[torch.dtype]]:
    """Types met: of networks' outputs, of what objectives get and give in training, of gradients, of scores."""
    types: dict[str, set[torch.dtype]] = {"output": set(), "loss": set(), "gradient": set(), "scores": set()}
    forward, clip = Lxmert.forward, VQAStage.configure_gradient_clipping

    def watched_forward(self: Lxmert, batch: Any) -> Any:
        output = forward(self, batch)
        types["output"] |= {output.logits.dtype}
        return output

    def watched(objective: Any) -> Callable[..., Loss]:
        def formed(self: Any, *given: torch.Tensor, **needed: torch.Tensor) -> Loss:
            loss: Loss = objective(self, *given, **needed)
            assert not torch.is_autocast_enabled("cpu")
            tensors: list[torch.Tensor] = []
            map_nested({"given": dict(enumerate(given)), **needed}, tensors.append)
            floats = [*(tensor for tensor in tensors if tensor.is_floating_point()), loss.total, *loss.terms.values()]
            types["loss"] |= {tensor.dtype for tensor in floats}
            return loss

        return formed

    def scored(objective: Any) -> Callable[..., torch.Tensor]:
        def scores(self: Any, output: Any) -> torch.Tensor:
            found: torch.Tensor = objective(self, output)
            types["scores"] |= {output.logits.dtype, found.dtype}
            return found

        return scores

    def watched_clip(self: VQAStage, *args: Any, **kwargs: Any) -> None:
        types["gradient"] |= {p.grad.dtype for p in self.parameters() if p.grad is not None}
        clip(self, *args, **kwargs)

    monkeypatch.setattr(Lxmert, "forward", watched_forward)
    monkeypatch.setattr(VQAStage, "configure_gradient_clipping", watched_clip)
    for objective in OBJECTIVES.values():
        monkeypatch.setattr(objective, "loss", watched(objective.loss))
        monkeypatch.setattr(objective, "scores", scored(objective.scores))
    return types


@pytest.mark.parametrize(
    ("precision", "forward", "kept"),
    [
        ("32-true", torch.float32, torch.float32),
        ("bf16-mixed", torch.bfloat16, torch.float32),
        ("16-mixed", torch.bfloat16, torch.float32),  # without a GPU Lightning takes bf16 in its place
        ("64-true", torch.float64, torch.float64),
    ],
)
@pytest.mark.filterwarnings("ignore:.*AMP with fp16 is not supported on CPU")
def test_scores_thresholds_and_losses_keep_fp32(
    cdvqa: Command,
    seen: dict[str, set[torch.dtype]],
    precision: str,
    forward: torch.dtype,
    kept: torch.dtype,
):
    assert cdvqa("fit", "stage1_bce.yaml", "--trainer.max_epochs=0") == 0
    for types in seen.values():
        types.clear()
    flags = ["--model.objective=lmh", "--model.parent_objective=bce", "--trainer.max_epochs=1"]
    assert cdvqa("fit", "stage2_bce.yaml", *flags, f"--trainer.precision={precision}", WITNESS) == 0
    assert seen == {"output": {forward}, "loss": {kept}, "gradient": {kept}, "scores": {kept}}
    state = witnessed(0)["state"]
    assert {tensor.dtype for tensor in state.values() if tensor.is_floating_point()} == {kept}


@pytest.mark.parametrize("name", ["mmbs", "introd", "rmlvqa"])
def test_views_and_teachers_run_in_the_precision_of_the_network_and_scores_are_fp32(
    cdvqa: Command, seen: dict[str, set[torch.dtype]], name: str
):
    """Defects: the two halves of a contrast had two precisions; answers that differ by 1e-4 had one score."""
    flags = ["--trainer.precision=bf16-mixed", "--trainer.max_epochs=1", "--trainer.limit_train_batches=2"]
    if name == "introd":
        assert cdvqa("fit", "stage1_lmh.yaml", *flags, "--seed_everything=7") == 0
        (teacher,) = RUNS.glob("stage1_lmh*/seed7")
        flags.append(f"--model.teacher={teacher}")
    assert cdvqa("fit", "stage1_bce.yaml", *flags, f"--model.objective={name}") == 0
    assert cdvqa("test", "stage1_bce.yaml", *flags, f"--model.objective={name}") == 0
    assert seen["output"] == {torch.bfloat16} and seen["scores"] == seen["loss"] == {torch.float32}


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_scores_of_two_bytes_are_refused(cdvqa: Command, capsys: pytest.CaptureFixture[str], precision: str):
    assert cdvqa("fit", "stage1_bce.yaml", f"--trainer.precision={precision}") == 2
    assert f"--trainer.precision {precision}: scores, thresholds and losses need fp32" in capsys.readouterr().err
    assert not RUNS.exists()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_largest_half_precision_outputs_overflow_no_objective(name: str):
    objective, largest = made(name), torch.finfo(torch.float16).max
    logits = torch.tensor([[largest, -largest, 0.0, 1.0], [-largest, largest, largest, 0.0], [largest] * 4])
    hidden = torch.full((3, SIZES["hidden_size"]), largest)
    head = objective.head(SIZES["hidden_size"], SIZES["num_answers"])
    extremes = {"logits": logits if head is None else head(hidden).detach(), "hidden": hidden}
    extremes = {name: tensor.half().requires_grad_() for name, tensor in extremes.items()}
    loss = objective(**given(objective, torch.float32) | {name: tensor.float() for name, tensor in extremes.items()})
    assert loss.total.isfinite()
    loss.total.backward()
    gradients = [tensor.grad for tensor in extremes.values() if tensor.grad is not None]
    assert gradients and all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("stage", [1, 2])
def test_recomputed_activations_change_no_number(cdvqa: Command, monkeypatch: pytest.MonkeyPatch, stage: int):
    """Dropout is on: what is computed again drops the same units."""
    passes = []
    forward = LxmertLayer.forward

    def counted(self: LxmertLayer, *args: Any, **kwargs: Any) -> Any:
        passes[-1] += self.training
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(LxmertLayer, "forward", counted)
    if stage == 2:
        passes.append(0)
        assert cdvqa("fit", "stage1_lmh.yaml", "--trainer.max_epochs=0") == 0
    states = []
    for recompute in ("false", "true"):
        passes.append(0)
        flags = [f"--model.gradient_checkpointing={recompute}", "--overwrite", WITNESS]
        assert cdvqa("fit", f"stage{stage}_lmh.yaml", *flags) == 0
        states.append(witnessed(0))
    torch.testing.assert_close(states[1], states[0], rtol=0, atol=0)
    assert passes[-1] == 2 * passes[-2] > 0


def test_a_compiled_backbone_trains_the_same_network(cdvqa: Command, monkeypatch: pytest.MonkeyPatch):
    """The tracer is the real one; code generation is left out, which takes minutes."""
    compiled = []

    def compile_quickly(self: torch.nn.Module) -> None:
        compiled.append(self)
        torch.nn.Module.compile(self, backend="aot_eager")

    monkeypatch.setattr(Lxmert, "compile", compile_quickly)
    monkeypatch.setattr("cdvqa.stages.stage.check_compiler", lambda device: None)
    assert cdvqa("fit", "stage1_bce.yaml", "--trainer.max_epochs=0") == 0
    # Three whole batches: every other shape, and evaluation, is traced anew.
    flags = [*STILL, "--trainer.precision=64-true", "--trainer.limit_train_batches=3", "--trainer.limit_val_batches=0"]
    flags += ["--trainer.max_epochs=1", "--model.sparsity.reset_every=2", "--overwrite", WITNESS]
    states = []
    for choice in ("false", "true"):
        assert cdvqa("fit", "stage2_bce.yaml", *flags, f"--model.compile={choice}") == 0
        states.append(witnessed(0)["state"])
    assert len(compiled) == 1
    torch.testing.assert_close(states[1], states[0], rtol=1e-9, atol=1e-9)


def test_a_gpu_without_kernels_is_told_in_one_line(
    cdvqa: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def no_kernel(*size: int, device: torch.device) -> torch.Tensor:
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nCUDA kernel errors …")

    monkeypatch.setattr("cdvqa.stages.machine.torch.ones", no_kernel)
    assert cdvqa("fit", "stage1_bce.yaml") == 2
    assert "without kernels for this GPU; install a build that has them (for a V100:" in capsys.readouterr().err
    assert not RUNS.exists()


def test_a_machine_that_cannot_compile_is_told_in_one_line(
    cdvqa: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def no_compiler(function: Any) -> Any:
        raise RuntimeError("No working C++ compiler found in …\nand more")

    monkeypatch.setattr("cdvqa.stages.machine.torch.compile", no_compiler)
    assert cdvqa("fit", "stage1_bce.yaml", "--model.compile=true") == 2
    assert "torch cannot compile here (No working C++ compiler found in …)" in capsys.readouterr().err
