"""`cdvqa push` writes a network that answers without its data, and a card that says where it is from."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import OfflineModeIsEnabled

import cdvqa as package
from cdvqa.cli import main
from cdvqa.data.visual.image_files import picture_paths
from tests.conftest import the_run

SHORT = ["--trainer.max_epochs=1"]
MAKE = {"lxmert": [], **{name: [f"{name}.yaml"] for name in ("visualbert", "updn", "smrl", "mplug")}}


def pushed_away(run: Path, tmp_path: Path, *options: str) -> Path:
    """The folder of a pushed run, where nothing else of it or of its data can be found."""
    assert main(["push", str(run), f"--to={tmp_path / 'first'}", *options]) == 0
    return Path(shutil.move(tmp_path / "first", tmp_path / "elsewhere"))


@pytest.mark.parametrize("backbone", MAKE)
def test_it_answers_without_its_data(cdvqa, backbone, tmp_path, scenes, monkeypatch):
    objective = "ce" if backbone == "mplug" else "lpf"
    assert cdvqa("fit", f"stage1_{objective}.yaml", *MAKE[backbone], *SHORT) == 0
    run = the_run(f"stage1_{objective}", runs=f"logs/scenes/{backbone}")
    here = package.load(run)
    record = json.loads((scenes / "vqacp_v2_test_questions.json").read_text())[0]
    visual = here.data.visual
    if backbone == "mplug":
        given = {"image": picture_paths(visual.path)[record["image_id"]]}
    else:
        regions, boxes, mask = visual.read([record["image_id"]])
        kept = slice(None) if mask is None else mask[0]
        given = {"features": regions[0][kept], "boxes": boxes[0][kept]}
    expected = here.ask(record["question"], **given)
    folder = pushed_away(run, tmp_path)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["data"]["root"] = "nowhere"
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.chdir(tmp_path)
    reply = package.load("elsewhere").ask(record["question"], **given)
    assert reply.answers == expected.answers
    assert (reply.question_type, reply.prior) == (expected.question_type, expected.prior) and reply.prior


def test_the_card_says_where_the_network_is_from(cdvqa, tmp_path):
    options = ["--model.objective=bce", *SHORT]
    assert cdvqa("fit", "stage1_bce.yaml", *options) == 0
    assert cdvqa("fit", "stage2_bce.yaml", *options) == 0
    assert cdvqa("test", "stage2_bce.yaml", *options) == 0
    run = the_run("stage2_bce+bce_mask_uniform_s50")
    folder = pushed_away(run, tmp_path, "--dtype=int8", "--license=mit")
    card, results = ModelCard.load(folder / "README.md"), json.loads((run / "results.json").read_text())["splits"]
    assert card.data.license == "mit" and card.data.library_name == "cdvqa" and "lxmert" in card.data.tags
    measured = {result.dataset_split: result.metric_value for result in card.data.eval_results}
    assert measured == {name: pytest.approx(score["all"], abs=0.005) for name, score in results.items()}
    record = json.loads((run / "run.json").read_text())
    files = record["data"]["files"].values()
    for said in (record["identity"], record["selection"], *(file["sha256"] for file in files), "50 % of the weights"):
        assert said in card.text
    assert "measured in fp32, before the values were stored as int8" in card.text
    assert "not comparable with published numbers" in card.text and "balanced questions" in card.text
    names = {path.name for path in folder.iterdir()}
    wanted = {"README.md", "config.yaml", "run.json", "results.json", "subnetwork.safetensors", "tokenizer.json"}
    assert names == {*wanted, "prior.json"}
    assert str(tmp_path) not in (folder / "README.md").read_text()
    lines = card.text.split("```python\n")[1].split("```")[0]
    compile(lines, "card", "exec")


def test_nothing_is_uploaded_without_an_explicit_id(cdvqa, tmp_path, capsys, monkeypatch):
    assert cdvqa("fit", "stage1_bce.yaml", *SHORT) == 0
    run, calls = the_run("stage1_bce"), []
    monkeypatch.setattr(HfApi, "create_repo", lambda self, name, **_: calls.append(name))

    def upload(self, repo_id, folder_path):
        calls.append(sorted(path.name for path in Path(folder_path).iterdir()))
        return f"hub/{repo_id}"

    monkeypatch.setattr(HfApi, "upload_folder", upload)
    assert main(["push", str(run), f"--to={tmp_path / 'me' / 'net'}"]) == 0
    assert calls == [] and (tmp_path / "me" / "net" / "README.md").is_file()
    assert main(["push", str(run), "--to=hf://me/net"]) == 0
    assert calls[0] == "me/net" and "model.safetensors" in calls[1]
    assert "uploaded: hub/me/net" in capsys.readouterr().out

    def refuse(*_, **__):
        raise OfflineModeIsEnabled("offline")

    monkeypatch.setattr(HfApi, "create_repo", refuse)
    assert main(["push", str(run), "--to=hf://me/net"]) == 1
    assert "--to hf://me/net: the hub cannot be reached; write to a folder instead" in capsys.readouterr().err
    before = sorted(tmp_path.rglob("*"))
    assert main(["push", str(run), f"--to={tmp_path / 'me'}"]) == 2
    assert "is there already; name a new folder, or hf://user/name to upload" in capsys.readouterr().err
    assert main(["push", str(run), "--to=hf:me/net"]) == 2  # it made a folder of this name
    assert "--to hf:me/net: expected a new folder, or hf://user/name to upload" in capsys.readouterr().err
    assert main(["push", str(tmp_path), "--to=hf://me/net"]) == 2
    assert f"{tmp_path}: no run folder" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before
