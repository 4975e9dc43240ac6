"""Toy data that `cdvqa check` looks at."""

import socket

import pytest
from transformers import LxmertConfig, LxmertModel

from cdvqa.cli import main
from tests.data.toy import write_toy

TINY = {
    "vocab_size": 40, "hidden_size": 16, "num_attention_heads": 4, "intermediate_size": 32, "visual_feat_dim": 8,
    "l_layers": 1, "r_layers": 1, "x_layers": 1, "max_position_embeddings": 20,
}  # fmt: skip


@pytest.fixture
def world(tmp_path, monkeypatch):
    """Toy data with six answers, and pre-trained weights for a tiny LXMERT; everything that stage 1 needs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(socket.socket, "connect", lambda *args: pytest.fail("check has asked the network"))
    write_toy(tmp_path / "data")
    LxmertModel(LxmertConfig(**TINY)).save_pretrained(tmp_path / "weights")
    return tmp_path / "data"


@pytest.fixture
def check(world, capsys):
    """Run check on the toy data; return its status and what it printed."""

    def run(config="stage1_lmh.yaml", *rest, **options):
        settings = {"data.root": world, "data.name": "toy", "data.num_answers": 6, "data.min_count": 2}
        settings["model.backbone.pretrained"] = world.parent / "weights"
        flags = [f"--{key}={value}" for key, value in (settings | options).items()]
        status = main(["check", "--config", config, *flags, *rest])
        return status, capsys.readouterr().out

    return run
