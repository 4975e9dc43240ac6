"""A wrong name is answered with the nearest right one, in the one line of the error."""

from pathlib import Path

import pytest

from cdvqa.cli import main
from cdvqa.cli.configs import FOLDERS, shipped


@pytest.mark.parametrize(
    ("args", "meant"),
    [
        (["fits"], "fit"),
        (["fit", "--config", "stage1_bc.yaml"], "stage1_bce.yaml"),
        (["fit", "--config", "configs/data/vqav.yaml"], "vqavs.yaml"),
        (["fit", "--config", "stage1_bce.yaml", "--data.rot=x"], "--data.root"),
        (["fit", "--config", "stage1_bce.yaml", "--model.objectiv=x"], "--model.objective"),
        (["fit", "--config", "stage1_bce.yaml", "--model.backbone.pretraine=x"], "--model.backbone.pretrained"),
        (["fit", "--config", "stage1_bce.yaml", "--model.backbone=Lxmrt"], "Lxmert"),
        (["info", "--config", "stage1_bce.yaml", "--data.layout=vqavp"], "vqavs"),
        (["info", "--config", "stage1_bce.yaml", "--model.objective=lmhh"], "lmh"),
        (["info", "--config", "stage2_bce.yaml", "--model.sparsity.assignment=unifrom"], "uniform"),
        (["fti"], "fit"),
        (["info", "--config", "stage1_bce.yaml", "--model.objective=LMH"], "lmh"),
        (["info", "--config", "stage1_bce.yaml", "--trainer.logger=Wandblogger"], "WandbLogger"),
        (["info", "--config", "stage1_bce.yaml", "--trainer.callbacks=EarlyStoping"], "EarlyStopping"),
        (["info", "--config", "stage1_bce.yaml", "--model.epochs=3"], "--trainer.max_epochs"),
        (["sweep", "tabel1"], "table1"),
        (["sweep", "fig2", "--dryrun"], "--dry_run"),
        (["prepare", "scnes"], "scenes"),
        (["prepare", "scenes", "--outptu", "x"], "--output"),
    ],
)
def test_the_nearest_name_is_offered(
    args: list[str], meant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    assert main(args) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.endswith(f"; did you mean {meant}?\n")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_option_in_a_file_is_answered_with_the_nearest_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    for text, meant in (("data: {rot: x}", "--data.root"), ("model: {objectiv: bce}", "--model.objective")):
        (tmp_path / "mine.yaml").write_text(text)
        assert main(["fit", "--config", "stage1_bce.yaml", "--config", str(tmp_path / "mine.yaml")]) == 2
        assert f"; did you mean {meant}" in capsys.readouterr().err


def test_configs_lists_every_shipped_config_with_a_line(capsys: pytest.CaptureFixture[str]):
    assert main(["configs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split(None, 1) for line in lines if line.startswith("  ")]
    files = list(shipped().rglob("*.yaml"))
    assert sorted(name for name, _ in rows) == sorted(path.name for path in files)
    assert all(len(text) > 15 for _, text in rows) and max(map(len, lines)) <= 120
    assert {path.parent.name for path in files} == set(FOLDERS)
    assert main(["configs", "data"]) == 2
    assert "cdvqa configs: data: takes no options" in capsys.readouterr().err
