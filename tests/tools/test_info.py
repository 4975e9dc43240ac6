"""`cdvqa info` counts what ships with a network."""

import re

import pytest

from cdvqa.cli import main

BRANCH = 768 * 1024 + 1024 + 1024 * 1024 + 1024 + 1024 * 2274 + 2274  # three Linears, on one modality's features
LAYER = 2274 * 2274 + 2274  # by which a branch learns to answer on its own


def counted(capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[dict[str, int], str]:
    assert main(["info", "--config", "stage2_lmh.yaml", "--model.backbone.pretrained=null", *flags]) == 0
    out = capsys.readouterr().out
    rows = re.findall(r"^(\S[\w ]*?) +(?:\d+ +)?([\d,]+) +[\d.]+$", out, flags=re.M)
    return {name: int(number.replace(",", "")) for name, number in rows}, out


def test_the_part_of_an_objective_that_answers_is_counted_and_the_rest_named(capsys: pytest.CaptureFixture[str]):
    plain, out = counted(capsys, "--model.objective=bce")
    assert "of the objective" not in out and "not counted" not in out
    rows, out = counted(capsys, "--model.objective=cf_vqa")
    assert rows["of the objective"] == 2 * BRANCH + 1
    for name in ("with the classifier", "everything"):
        assert rows[name] - plain[name] == 2 * BRANCH + 1
    assert rows["all masked"] == plain["all masked"] and rows["classifier"] == plain["classifier"]
    assert f"not counted: {2 * LAYER:,} parameters of the objective" in out
    rows, out = counted(capsys, "--model.objective=lmh")
    assert rows == plain and "not counted: 770 parameters of the objective, which no answer needs" in out
