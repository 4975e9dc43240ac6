"""`cdvqa export` writes small files that answer as their run does."""

import json
from pathlib import Path

import onnx
import pytest
import torch

from cdvqa.cli import main
from cdvqa.deploy.network import load
from cdvqa.inference.runtimes import onnx_runtime, openvino_runtime
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
        assert main(["export", str(run), f"--dtype={dtype}", "--measure=false"]) == 0
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
        gone = {name for name in whole.state if name not in file.names}
        assert gone and all("x_layers.1.visn_" in name for name in gone)  # the branch that no answer needs
        assert all(torch.equal(file.read(name), whole.state[name]) for name in file.names)


def test_a_further_training_starts_from_an_exported_network_only_if_it_is_whole(cdvqa, capsys):
    """Masks of modules without zeros are part of it; where parts were taken out, it is refused."""
    visualbert, heads = ["visualbert.yaml", *SHORT], ["--model.sparsity.pattern=structured"]
    for world, options, status in ((visualbert, [], 0), (SHORT, [], 2), (SHORT, heads, 2)):
        assert cdvqa("fit", "stage1_bce.yaml", *world, "--overwrite") == 0
        before = set(Path("logs").rglob("subnetwork.safetensors"))
        assert cdvqa("fit", "stage2_bce.yaml", *world, *options) == 0
        (whole,) = set(Path("logs").rglob("subnetwork.safetensors")) - before
        assert main(["export", str(whole.parent), "--measure=false"]) == 0
        start = whole.parent / "export" / "fp32" / "subnetwork.safetensors"
        assert cdvqa("fit", "stage3_bce.yaml", *world, f"--model.init_from={start}") == status
    assert "parts that no answer needs were taken out; a training starts from its run" in capsys.readouterr().err


@pytest.fixture
def pruned(cdvqa, request) -> Path:
    """A finished stage 2 with zeros, heads and neurons among them, and answers to the test questions."""
    share = ["--model.sparsity.pattern=structured", "--model.sparsity.overall=0.5"]
    assert cdvqa("fit", "stage1_bce.yaml", *SHORT) == 0
    assert cdvqa("fit", "stage2_bce.yaml", *SHORT, *share) == 0
    assert cdvqa("test", "stage2_bce.yaml", *SHORT, *share) == 0
    return the_run("stage2_bce+bce_mask_uniform_s50_structured")


def batches(run: Path) -> list:
    """The test questions of a run, in the order of their answers."""
    data = load(run).data
    data.setup("test")
    return list(data.test_dataloader()[data.splits.index("test")])


def test_an_export_leaves_another_one_beside_it_alone(pruned, tmp_path, capsys):
    """OpenVINO's is made by way of ONNX; once that file lay beside it, and was deleted."""
    (tmp_path / "network.onnx").write_text("another export")
    export = ["export", str(pruned), "--to=openvino", "--measure=false"]
    assert main([*export, f"--output={tmp_path / 'network.xml'}"]) == 0
    assert (tmp_path / "network.onnx").read_text() == "another export"
    (tmp_path / "network.xml").unlink()
    before = (tmp_path / "network.bin").read_bytes()
    assert main([*export, f"--output={tmp_path / 'network.xml'}"]) == 2
    assert f"{tmp_path / 'network.bin'}: it is there already" in capsys.readouterr().err
    assert (tmp_path / "network.bin").read_bytes() == before


def test_graphs_answer_as_the_run(pruned, capsys):
    """ONNX and OpenVINO, on the whole test split; onnxruntime needs nothing but the file, which names the answers."""
    expected = [row["answer"] for row in answers(pruned)]
    for to, dtype, name in (
        ("onnx", "fp32", "network.onnx"),
        ("onnx", "int8", "network.onnx"),
        ("openvino", "fp32", "openvino/network.xml"),
    ):
        assert main(["export", str(pruned), f"--to={to}", f"--dtype={dtype}", "--measure=false"]) == 0
        path = pruned / "export" / dtype / name
        assert f"written: {path}" in capsys.readouterr().out
        make = onnx_runtime if to == "onnx" else openvino_runtime
        runtime = make(path, 1)
        known = load(pruned).metadata["answers"]
        if to == "onnx":
            known = json.loads({entry.key: entry.value for entry in onnx.load(path).metadata_props}["answers"])
        found = [known[index] for batch in batches(pruned) for index in runtime(batch).argmax(1).tolist()]
        assert len(found) == 70
        same = sum(one == other for one, other in zip(found, expected, strict=True))
        assert same == 70 if dtype == "fp32" else same >= 60
    sizes = {dtype: (pruned / "export" / dtype / "network.onnx").stat().st_size for dtype in ("fp32", "int8")}
    assert sizes["int8"] < sizes["fp32"]


@pytest.mark.parametrize("backbone", ["lxmert", "visualbert"])
def test_the_lines_of_the_hugging_face_folder_answer_as_the_run(cdvqa, backbone, scenes):
    world = [*(["visualbert.yaml"] if backbone == "visualbert" else []), *SHORT]
    assert cdvqa("fit", "stage1_bce.yaml", *world) == 0
    assert cdvqa("fit", "stage2_omp.yaml", *world) == 0
    assert cdvqa("test", "stage2_omp.yaml", *world) == 0
    run = the_run("stage2_bce_omp_uniform_s50", runs=f"logs/scenes/{backbone}")
    assert main(["export", str(run), "--to=huggingface", "--measure=false"]) == 0
    folder = run / "export" / "fp32" / "huggingface"
    lines = (folder / "README.md").read_text().split("```")[1].removeprefix("python\n")
    features = load(run).data.visual
    records = json.loads((scenes / "vqacp_v2_test_questions.json").read_text())
    questions = {record["question_id"]: record for record in records}
    for row in answers(run):
        question = questions[row["question_id"]]
        regions, boxes, mask = features.read([question["image_id"]])
        given = {"folder": folder, "question": question["question"]}
        given |= {"features": torch.from_numpy(regions[0]).float(), "boxes": torch.from_numpy(boxes[0])}
        if mask is not None:
            given |= {name: given[name][mask[0]] for name in ("features", "boxes")}
        exec(lines, given)
        assert given["answer"] == row["answer"]


def test_the_table_has_every_form(pruned, capsys):
    assert main(["export", str(pruned), "--dtype=int8", "--questions=20"]) == 0
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    columns = [cell.strip() for cell in rows[0][1:]]
    table = {row[0].strip(): dict(zip(columns, row[1:], strict=True)) for row in rows[1:]}
    assert list(table) == [
        "dense fp32, torch",
        "dense int8, onnxruntime",
        "subnetwork int8, torch",
        "subnetwork fp32, onnxruntime",
        "subnetwork int8, onnxruntime",
        "subnetwork fp32, openvino",
    ]
    assert float(table["subnetwork int8, torch"]["of dense"]) < 0.7  # most of so small a file is its header
    for name, row in table.items():
        assert float(row["same answers"].strip().rstrip("%")) >= (100 if "fp32" in name else 80)
        assert all(float(value) > 0 for column, value in row.items() if column.startswith(("ms", "peak")))
        if "fp32" in name:
            assert row["test"] == table["dense fp32, torch"]["test"]


def test_what_cannot_be_exported_is_refused(cdvqa, capsys, tmp_path):
    assert main(["export", str(tmp_path), "--to=openvino", "--dtype=int8"]) == 2
    assert "--dtype int8: openvino takes fp32, fp16" in capsys.readouterr().err
    assert main(["export", str(tmp_path)]) == 2
    assert f"{tmp_path}: no run folder" in capsys.readouterr().err
    assert cdvqa("fit", "stage1_bce.yaml", *SHORT) == 0
    run = the_run("stage1_bce")
    before = (run / "model.safetensors").read_bytes()
    assert main(["export", str(run), f"--output={run / 'model.safetensors'}", "--dtype=int8"]) == 2
    assert "it is there already; name a new one" in capsys.readouterr().err
    assert (run / "model.safetensors").read_bytes() == before
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | {"finished": None}))
    assert main(["export", str(run)]) == 2
    assert "this run is not finished" in capsys.readouterr().err
    assert not (run / "export").exists()
