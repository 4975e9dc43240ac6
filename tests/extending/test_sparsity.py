"""A criterion and an assignment outside the package go through `fit` and `test`."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cdvqa.sparsity import Sparsity, Subnetwork
from tests.extending.assignment import ErdosRenyi
from tests.extending.criterion import Fisher

FOLDER = Path(__file__).parent
SHORT = ["--trainer.max_epochs=1", "--model.global_batch=32"]
PRUNED = ["--model.parent_objective=lmh", "--model.sparsity.method=omp"]


def network(pattern: str) -> Subnetwork:
    (path,) = Path("logs/scenes/lxmert").glob(f"{pattern}/seed0/subnetwork.safetensors")
    return Subnetwork.load(path)


def zeros(network: Subnetwork) -> dict[str, float]:
    return {name: float((~mask).float().mean()) for name, mask in network.masks.items()}


def test_a_criterion_that_needs_gradients(cdvqa: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> None:
    """One-shot pruning and the start of mask training take the same mask, which is not that of magnitudes."""
    overlay = FOLDER / "criterion.yaml"
    assert cdvqa("fit", "stage1_lmh.yaml", *SHORT) == 0
    assert cdvqa("fit", "stage2_lmh.yaml", overlay, *PRUNED, *SHORT) == 0
    assert cdvqa("test", "stage2_lmh.yaml", overlay, *PRUNED, *SHORT) == 0
    # At such a rate no score crosses the threshold, so the mask at the end is that of the start.
    still = [*SHORT, "--model.lr=1e-12"]
    assert cdvqa("fit", "stage2_lmh.yaml", overlay, *still) == 0
    assert cdvqa("test", "stage2_lmh.yaml", overlay, *still) == 0
    assert cdvqa("fit", "stage2_lmh.yaml", *PRUNED, *SHORT) == 0
    pruned, start = network("stage2_lmh_omp_*_Fisher*"), network("stage2_lmh+lmh_mask_*_Fisher*")
    (magnitude,) = [
        Subnetwork.load(p)
        for p in Path().glob("logs/scenes/lxmert/stage2_lmh_omp*/seed0/*.safetensors")
        if "Fisher" not in str(p)
    ]
    assert all(torch.equal(mask, start.masks[name]) for name, mask in pruned.masks.items())
    assert zeros(pruned) == zeros(magnitude)
    differ = [name for name, mask in pruned.masks.items() if not torch.equal(mask, magnitude.masks[name])]
    assert len(differ) > len(pruned.masks) / 2
    # The masks are in the checkpoint: a resumed run does not form the gradients again.
    monkeypatch.setattr(Fisher, "importance", lambda *args: pytest.fail("it was computed again"))
    assert cdvqa("fit", "stage2_lmh.yaml", overlay, *still, "--ckpt_path=last") == 0


def test_an_assignment_with_its_own_share_for_each_matrix(cdvqa: Callable[..., int]) -> None:
    overlay = FOLDER / "assignment.yaml"
    assert cdvqa("fit", "stage1_lmh.yaml", *SHORT) == 0
    assert cdvqa("fit", "stage2_lmh.yaml", overlay, "tiny_masks.yaml", *SHORT) == 0
    assert cdvqa("test", "stage2_lmh.yaml", overlay, "tiny_masks.yaml", *SHORT) == 0
    shares = zeros(network("stage2_lmh+lmh_mask_ErdosRenyi*"))
    sizes = {name: mask.numel() for name, mask in network("stage2_lmh+lmh_mask_ErdosRenyi*").masks.items()}
    overall = sum(shares[name] * size for name, size in sizes.items()) / sum(sizes.values())
    assert abs(overall - 0.5) < 0.01
    options = {"assignment": "tests.extending.assignment.ErdosRenyi", "assignment_options": {"power": 0.5}}
    assignment = Sparsity(**options).make_assignment()
    assert isinstance(assignment, ErdosRenyi) and assignment.power == 0.5
    largest, smallest = max(sizes, key=sizes.get), min(sizes, key=sizes.get)
    assert shares[largest] > 0.5 > shares[smallest]
    (record,) = Path("logs").glob("*/*/stage2_*/seed0/run.json")
    assert json.loads(record.read_text())["sparsity"]["assignment"] == "tests.extending.assignment.ErdosRenyi"
