"""What only a GPU runs: its way to the thresholds, its masks, mixed precision, and its random generator on resume."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cdvqa.sparsity import attach_masks, binary_masks, masks, reset_thresholds
from cdvqa.sparsity.masks.mask import pack, unpack
from cdvqa.sparsity.selection.kth import by_counting, by_sorting, last_zero
from cdvqa.sparsity.selection.threshold import select_global_threshold
from cdvqa.stages.optimisation import make_optimizer
from tests.conftest import overlay, the_run
from tests.forking import HOLD, fork, kill_at
from tests.killing import differences
from tests.sparsity.reference import use_plain_masks
from tests.sparsity.toy import DEAD, GROUPS, Toy
from tests.test_resume import STAGES

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")

Command = Callable[..., int]
ON_GPU = ["--trainer.accelerator=gpu", "--trainer.devices=1"]


def scores_of(kind: str, shape: tuple[int, ...], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    spread = torch.randn(shape, generator=generator)
    return {"spread": spread, "two values": (spread > 0.3) * 0.02, "many ties": (spread * 4).round() / 4}[kind]


@pytest.mark.parametrize("kind", ["spread", "two values", "many ties"])
@pytest.mark.parametrize("tie_break", ["exact", "strict"])
def test_thresholds_and_masks_are_those_of_the_cpu(kind: str, tie_break: str):
    shapes = [(30, 40), (1,), (70_000,), (300, 500)]
    scores = [scores_of(kind, shape, seed) for seed, shape in enumerate(shapes)]
    weights = [scores_of("many ties", shape, 10 + seed) for seed, shape in enumerate(shapes)]
    for sparsity in (0.0, 0.3, 0.7, 1.0):
        here = select_global_threshold(scores, sparsity, weights, tie_break)
        there = select_global_threshold([s.cuda() for s in scores], sparsity, [w.cuda() for w in weights], tie_break)
        assert there.threshold == here.threshold and there.rules == here.rules
        for mine, theirs in zip(here.mask, there.mask, strict=True):
            assert theirs.device.type == "cuda" and torch.equal(theirs.cpu(), mine)


def out_of_memory(*args: Any) -> Any:
    raise torch.OutOfMemoryError("CUDA out of memory")


def test_a_gpu_sorts_or_lets_the_cpu_count_to_the_same_last_zero(monkeypatch: pytest.MonkeyPatch):
    scores, weights = ([scores_of("many ties", (9_000,), seed + part) for part in (0, 1)] for seed in (0, 5))
    on_gpu = [part.cuda() for part in scores], [part.cuda() for part in weights]
    wanted = by_counting(scores, weights, 7_777)
    found = [by_sorting(*on_gpu, 7_777)]
    monkeypatch.setattr("cdvqa.sparsity.selection.kth.by_sorting", out_of_memory)
    found.append(last_zero(*on_gpu, 7_777))
    for values, places in found:
        assert values.device.type == places.device.type == "cuda"
        assert values.tolist() == wanted[0].tolist() and places.tolist() == wanted[1].tolist()
    scores[1][3] = math.nan
    assert math.isnan(by_sorting([part.cuda() for part in scores], on_gpu[1], 5)[0][0])


@pytest.mark.parametrize("entries", [1, 8, 4_099])
def test_packed_masks_are_those_of_the_cpu(entries: int):
    mask = scores_of("spread", (entries,), 0) > 0
    packed = pack(mask.cuda())
    assert torch.equal(packed.cpu(), pack(mask))
    assert torch.equal(unpack(packed, (entries,)).cpu(), mask)


@pytest.mark.parametrize("options", [{}, {"assignment": "global"}, {"tie_break": "strict"}])
def test_masks_that_share_memory_give_the_very_numbers_of_masks_that_do_not(options: dict[str, str]):
    models = []
    for plain in (False, True):
        model = Toy(tied=True)
        attach_masks(model, GROUPS, dict.fromkeys(GROUPS, 0.6), overall=0.6, dead=DEAD, **options)
        models.append(use_plain_masks(model.cuda()) if plain else model.cuda())
    optimizers = [
        make_optimizer("adamw", [{"params": [p for p in model.parameters() if p.requires_grad], "lr": 1e-2}])
        for model in models
    ]
    generator = torch.Generator().manual_seed(0)
    for step in range(12):
        ids = torch.randint(0, 16, (8, 5), generator=generator).cuda()
        regions = torch.randn(8, 9, generator=generator).cuda()
        for model, optimizer in zip(models, optimizers, strict=True):
            model(ids, regions).square().sum().backward()
            if step % 2:  # of two micro-batches
                optimizer.step()
        if step % 4 == 3:
            assert reset_thresholds(models[0]) == reset_thresholds(models[1])
    for mine, theirs in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(mine, theirs)
    zeros = sum(int((~mask).sum()) for name, mask in masks(models[0]).items() if name not in DEAD)
    assert 0 < zeros < sum(mask.score.numel() for mask in binary_masks(models[0]).values())


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_three_stages_train_and_are_tested(cdvqa: Command, precision: str):
    for name, configs in STAGES.values():
        configs = configs[1::2]  # without --config
        assert cdvqa("fit", *configs, *ON_GPU, f"--trainer.precision={precision}") == 0
        folder = the_run(name)
        state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        assert {tensor.dtype for tensor in state.values() if tensor.is_floating_point()} == {torch.float32}
        assert cdvqa("test", *configs, *ON_GPU, f"--trainer.precision={precision}") == 0
        assert 0 <= json.loads((folder / "results.json").read_text())["splits"]["test"]["all"] <= 100
    sparsity = json.loads((the_run(STAGES[2][0]) / "run.json").read_text())["sparsity"]
    assert sparsity["overall"] == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("precision", ["32-true", "16-mixed"])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_killed_run_resumes_to_the_same_end(cdvqa: Command, scenes: Path, stage: int, precision: str):
    """With --trainer.deterministic: without it a GPU adds in another order each time."""
    for earlier in range(1, stage):
        assert cdvqa("fit", *STAGES[earlier][1][1::2], *ON_GPU, "--trainer.max_epochs=1") == 0
    name, configs = STAGES[stage]
    args = ["fit", *configs, *overlay(scenes), *ON_GPU, f"--trainer.precision={precision}"]
    args += [
        "--trainer.deterministic=true",
        "--model.global_batch=16",
        "--trainer.max_epochs=3",
        "--checkpoint_every_n_steps=4",
        HOLD,
    ]
    status, errors = fork(args)
    assert status == 0, errors
    folder = the_run(name)
    whole = folder.rename("whole")
    kill_at(args, folder, 33)
    assert fork([*args, "--ckpt_path=last"])[0] == 0
    assert differences(whole, folder) == []
