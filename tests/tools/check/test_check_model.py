"""Word pieces, published weights, and the network that a stage starts from."""

import shutil
from pathlib import Path

import torch

from cdvqa.data import RegionFeatures
from cdvqa.sparsity import Subnetwork
from tests.data.toy import dump
from tests.tools.check.table import row


def test_weights_in_the_cache_of_the_hub_are_found(check, world, monkeypatch):
    folder = world.parent / "weights"

    def cached(name, file):
        assert name == "unc-nlp/lxmert-base-uncased"
        return str(folder / file) if (folder / file).is_file() else None

    monkeypatch.setattr("cdvqa.hub.try_to_load_from_cache", cached)
    options = {"model.backbone.pretrained": "unc-nlp/lxmert-base-uncased"}
    status, output = check(**options)  # found, but of another shape than LXMERT-base
    assert status == 1
    found = row(output, "pre-trained weights")
    assert (found[1], found[-1]) == ("unusable", str(folder / "model.safetensors"))


def test_weights_cut_short_are_unusable(check, world):
    path = world.parent / "weights" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    status, output = check()
    assert status == 1 and row(output, "pre-trained weights")[1] == "unusable"


def test_more_word_pieces_than_the_backbone_embeds(check, world):
    with (world / "vocab.txt").open("a") as file:
        file.writelines(f"piece{i}\n" for i in range(40))
    status, output = check()
    assert status == 1 and "53 word pieces, the backbone embeds 40" in output


def test_stage_2_needs_its_parent_run_and_no_weights(check, world):
    shutil.copy(world.parent / "weights" / "config.json", world)  # the shape of the model, without its weights
    options = {"model.backbone.pretrained": world, "model.parent_objective": "bce"}
    status, output = check("stage2_lmh.yaml", **options)
    assert status == 1 and "pre-trained weights" not in output
    assert row(output, "parent run")[1:] == ["missing", "logs/toy/lxmert"]
    assert "make it with `cdvqa fit --config stage1_bce.yaml`" in output


def test_a_parent_run_that_is_there(check, world):
    run = Path("logs/toy/lxmert/stage1_bce-00000000/seed0")
    record = {"identity": "0" * 64, "stage": 1, "seed": 0, "pipeline": ["bce"], "sparsity": None, "settings": {}}
    dump(run / "run.json", record | {"selection": "dev", "started": "2026-01-01", "finished": "2026-01-01"})
    Subnetwork({"weight": torch.ones(2)}, {}, {"pipeline": ["bce"]}).save(run / "model.safetensors")
    status, output = check("stage2_lmh.yaml", **{"model.parent_objective": "bce"})
    assert status == 0
    found = row(output, "parent run")
    assert (found[1], found[-1]) == ("ok", str(run / "model.safetensors"))
    assert "ok    parent run: bce\n" in output
    (run / "model.safetensors").write_bytes(b"cut")
    status, output = check("stage2_lmh.yaml", **{"model.parent_objective": "bce"})
    assert status == 1 and row(output, "parent run")[1] == "unusable"


def test_a_network_to_start_from(check, world):
    status, output = check("stage2_lmh.yaml", **{"model.init_from": "elsewhere"})
    assert status == 1
    assert row(output, "starting network")[1:] == ["missing", "elsewhere"]


def fingerprint(world, **changes):
    """What a network says that was trained on the features of `world`, but for some changes."""
    return RegionFeatures(world / "features.h5").fingerprint() | changes


def test_a_network_trained_on_other_features(check, world):
    run = world.parent / "run"

    def started_from(**changes):
        metadata = {"pipeline": ["bce"], "features": fingerprint(world, **changes)}
        Subnetwork({"weight": torch.ones(2)}, {}, metadata).save(run / "model.safetensors")
        return check("stage2_lmh.yaml", **{"model.init_from": run})

    status, output = started_from()
    assert status == 0 and "ok    starting network: bce\n" in output
    status, output = started_from(norm={"mean": 40.0, "min": 1.0, "max": 80.0})
    assert status == 1
    assert "trained on other region features: mean norm 40 there and " in output
