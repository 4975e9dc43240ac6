"""Names of runs, and their files."""

import json
from pathlib import Path
from typing import Any

import pytest

from cdvqa.errors import InputError
from cdvqa.runs.folder import Run, network_file, percent, run_name, run_of

PLAN = {"method": "mask", "assignment": "uniform", "overall": 0.5, "criterion": "magnitude", "scores": "two_level"}
SHARES = {"language": 0.6, "vision": 0.2, "cross": 0.52812}


@pytest.mark.parametrize(
    ("stage", "pipeline", "plan", "name"),
    [
        (1, ["bce"], None, "stage1_bce"),
        (2, ["lpf", "lmh"], {}, "stage2_lpf+lmh_mask_uniform_s50"),
        (2, ["bce"], {"method": "omp"}, "stage2_bce_omp_uniform_s50"),
        (2, ["bce", "lmh"], {"assignment": "global", "overall": 0.975}, "stage2_bce+lmh_mask_global_s97.5"),
        (2, ["bce", "bce"], {"criterion": "random"}, "stage2_bce+bce_mask_uniform_s50_random"),
        (2, ["a", "b"], {"assignment": "modality", **SHARES}, "stage2_a+b_mask_modality_s50_L60V20X52.8"),
        (2, ["a", "b"], {"assignment": "shares.PerMatrix"}, "stage2_a+b_mask_PerMatrix_s50"),
        (3, ["bce", "lmh", "lmh"], {}, "stage3_bce+lmh+lmh_mask_uniform_s50"),
        (3, ["unknown", "lmh"], None, "stage3_unknown+lmh"),
    ],
)
def test_names(stage: int, pipeline: list[str], plan: dict[str, Any] | None, name: str):
    assert run_name(stage, pipeline, None if plan is None else PLAN | plan) == name


@pytest.mark.parametrize(
    ("share", "text"), [(0.5, "50"), (0.7, "70"), (0.975, "97.5"), (0.0, "0"), (1.0, "100"), (0.29, "29")]
)
def test_percent(share: float, text: str):
    assert percent(share) == text


def test_init_from_takes_a_run_folder_or_a_file(tmp_path: Path):
    file = tmp_path / "subnetwork.safetensors"
    file.write_bytes(b"")
    assert network_file(str(file)) == file and network_file(str(tmp_path)) == file
    with pytest.raises(InputError, match="is no run"):
        network_file(str(tmp_path.parent / tmp_path.name / ".."))


def test_a_file_inside_a_run_folder_is_of_that_run(tmp_path: Path):
    run = Run(tmp_path / "seed0")
    run.checkpoint.parent.mkdir(parents=True)
    for path in (run.checkpoint, run.model):
        path.write_bytes(b"")
    run.record.write_text(json.dumps({"identity": "0" * 64}))
    assert {run_of(path) for path in (run.folder, run.model, run.checkpoint)} == {run}
    assert run_of(tmp_path) is None and run_of(run.folder / "absent" / "file") is None
    run.record.write_text("{}")  # of a version without identities
    assert run_of(run.model) is None and run_of(run.folder) == run
    with pytest.raises(InputError, match=r"older cdvqa .*can be used with --model.init_from .*seed0/model.safetensors"):
        run.read()
