"""Run names and lineage."""

from pathlib import Path

import pytest

from cdvqa.errors import InputError
from cdvqa.runs.folder import Run, network_file, parent_run, percent, pipeline_of, run_name
from cdvqa.sparsity import Sparsity

MASK, OMP = Sparsity(), Sparsity(method="omp")


@pytest.mark.parametrize(
    ("stage", "pipeline", "sparsity", "name"),
    [
        (1, ["bce"], None, "stage1_bce"),
        (2, ["lpf", "lmh"], MASK, "stage2_lpf+lmh_mask_uniform_s50"),
        (2, ["bce"], OMP, "stage2_bce_omp_uniform_s50"),
        (2, ["bce", "lmh"], Sparsity(assignment="global", overall=0.975), "stage2_bce+lmh_mask_global_s97.5"),
        (2, ["bce", "bce"], Sparsity(criterion="random"), "stage2_bce+bce_mask_uniform_s50_random"),
        (3, ["bce", "lmh", "lmh"], MASK, "stage3_bce+lmh+lmh_mask_uniform_s50"),
        (3, ["bce", "lmh"], OMP, "stage3_bce+lmh_omp_uniform_s50"),
    ],
)
def test_names(stage: int, pipeline: list[str], sparsity: Sparsity | None, name: str):
    assert run_name(stage, pipeline, sparsity) == name


@pytest.mark.parametrize(
    ("share", "text"), [(0.5, "50"), (0.7, "70"), (0.975, "97.5"), (0.0, "0"), (1.0, "100"), (0.29, "29")]
)
def test_percent(share: float, text: str):
    assert percent(share) == text


@pytest.mark.parametrize(
    ("stage", "objective", "parent", "sparsity", "pipeline"),
    [
        (1, "bce", None, None, ["bce"]),
        (2, "lmh", None, MASK, ["lmh", "lmh"]),
        (2, "lmh", "lpf", MASK, ["lpf", "lmh"]),
        (2, "bce", "rubi", OMP, ["rubi"]),
        (3, "lmh", None, MASK, ["lmh", "lmh", "lmh"]),
        (3, "bce", "lpf+lmh", MASK, ["lpf", "lmh", "bce"]),
        (3, "lmh", "bce", OMP, ["bce", "lmh"]),
    ],
)
def test_pipelines(stage: int, objective: str, parent: str | None, sparsity: Sparsity | None, pipeline: list[str]):
    assert pipeline_of(stage, objective, parent, sparsity) == pipeline


def test_a_parent_is_the_finished_run_of_the_same_data_backbone_and_seed(tmp_path: Path):
    folder = tmp_path / "vqacp2" / "lxmert" / "stage2_lpf+lmh_mask_uniform_s50" / "seed3"
    parent = Run(tmp_path / "vqacp2" / "lxmert" / "stage1_lpf" / "seed3")
    with pytest.raises(
        InputError, match=r"stage1_lpf/seed3: no such run to start from; make it with `cdvqa fit --config"
    ):
        parent_run(folder, 2, ["lpf", "lmh"], MASK)
    parent.folder.mkdir(parents=True)
    parent.record.write_text('{"finished": null}')
    with pytest.raises(InputError, match="not finished"):
        parent_run(folder, 2, ["lpf", "lmh"], MASK)
    parent.record.write_text('{"finished": "2026-01-01T00:00:00+00:00"}')
    assert parent_run(folder, 2, ["lpf", "lmh"], MASK) == parent


def test_init_from_takes_a_run_folder_or_a_file(tmp_path: Path):
    file = tmp_path / "subnetwork.safetensors"
    file.write_bytes(b"")
    assert network_file(str(file)) == file and network_file(str(tmp_path)) == file
    with pytest.raises(InputError, match="is no run"):
        network_file(str(tmp_path.parent / tmp_path.name / ".."))
