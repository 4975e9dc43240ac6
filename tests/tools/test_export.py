"""`cdvqa export` writes small files that answer as their run does."""

import json
from pathlib import Path

import pytest
import torch

from cdvqa.cli import main
from cdvqa.sparsity import NetworkFile, Subnetwork
from tests.conftest import the_run

SHORT = ["--model.objective=bce", "--trainer.max_epochs=1"]


def answers(run: Path) -> list[dict]:
    return json.loads((run / "predictions" / "test.json").read_text())


@pytest.mark.parametrize(("pattern", "share"), [("unstructured", 0.7), ("structured", 0.5)])
def test_an_exported_network_answers_as_its_run(cdvqa, capsys, pattern, share):
    masked = [*SHORT, f"--model.sparsity.pattern={pattern}", f"--model.sparsity.overall={share}", "tiny_masks.yaml"]
    assert cdvqa("fit", "stage1_bce.yaml", *SHORT) == 0
    assert cdvqa("fit", "stage2_bce.yaml", *masked) == 0
    assert cdvqa("test", "stage2_bce.yaml", *masked) == 0
    suffix = "" if pattern == "unstructured" else f"_{pattern}"
    run = the_run(f"stage2_bce+bce_mask_uniform_s{100 * share:.0f}{suffix}")
    expected, whole = answers(run), Subnetwork.load(run / "subnetwork.safetensors")
    sizes = {}
    for dtype in ("fp32", "fp16", "bf16", "int8"):
        capsys.readouterr()
        assert main(["export", str(run), f"--dtype={dtype}"]) == 0
        path = run / "export" / dtype / "subnetwork.safetensors"
        assert str(path) in capsys.readouterr().out
        sizes[dtype] = path.stat().st_size - int.from_bytes(path.read_bytes()[:8], "little")
        evaluate = ["test", "--config", str(run / "config.yaml"), "--ckpt_path", str(path)]
        assert main(evaluate) == 0
        same = sum(row["answer"] == other["answer"] for row, other in zip(answers(path.parent), expected, strict=True))
        assert same == 70 if dtype == "fp32" else same >= 60
        assert answers(run) == expected  # the run's own results stay
    # What is beside the header, which is most of so small a file.
    assert sizes["int8"] < sizes["fp16"] == sizes["bf16"] < sizes["fp32"]
    file = NetworkFile(run / "export" / "fp32" / "subnetwork.safetensors")
    assert file.metadata["identity"] == json.loads((run / "run.json").read_text())["identity"]
    if pattern == "structured":
        assert not file.shapes and file.metadata["left"]
        parameters = sum(file.read(name).numel() for name in file.names)
        zeros = sum(int((~mask).sum()) for mask in whole.masks.values())
        assert sum(value.numel() for value in whole.state.values()) - parameters >= zeros
    else:
        assert all(torch.equal(file.read(name), value) for name, value in whole.state.items())


def test_a_further_training_starts_from_an_exported_network(cdvqa, capsys):
    """Masks of modules without zeros are part of it; where heads were taken out, it is refused."""
    alone = ["modality", "--model.sparsity.language=0.5", "--model.sparsity.vision=0", "--model.sparsity.cross=0"]
    assert cdvqa("fit", "stage1_bce.yaml", *SHORT) == 0
    for options, status in (
        ([f"--model.sparsity.assignment={alone[0]}", *alone[1:]], 0),
        (["--model.sparsity.pattern=structured"], 2),
    ):
        before = set(Path("logs").rglob("subnetwork.safetensors"))
        assert cdvqa("fit", "stage2_bce.yaml", *SHORT, *options) == 0
        (whole,) = set(Path("logs").rglob("subnetwork.safetensors")) - before
        assert main(["export", str(whole.parent)]) == 0
        start = whole.parent / "export" / "fp32" / "subnetwork.safetensors"
        assert cdvqa("fit", "stage3_bce.yaml", *SHORT, f"--model.init_from={start}") == status
    assert "heads and neurons were taken out; a training starts from the whole run" in capsys.readouterr().err


def test_what_cannot_be_exported_is_told(cdvqa, capsys, tmp_path):
    assert main(["export", str(tmp_path)]) == 2
    assert f"{tmp_path}: no run folder" in capsys.readouterr().err
    assert cdvqa("fit", "stage1_bce.yaml", *SHORT) == 0
    run = the_run("stage1_bce")
    before = (run / "model.safetensors").read_bytes()
    assert main(["export", str(run), f"--output={run / 'model.safetensors'}", "--dtype=int8"]) == 2
    assert "it is there already; name a new file" in capsys.readouterr().err
    assert (run / "model.safetensors").read_bytes() == before
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | {"finished": None}))
    assert main(["export", str(run)]) == 2
    assert "this run is not finished" in capsys.readouterr().err
    assert not (run / "export").exists()
