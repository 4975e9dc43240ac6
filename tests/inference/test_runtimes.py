"""The runtime that is fastest among those that answer as torch does, timed once a machine and network."""

import json

import pytest
import torch
from torch import nn

from cdvqa.errors import InputError
from cdvqa.inference import runtimes
from cdvqa.inference.runtimes import SparseRows, fastest, torch_runtime, with_sparse_rows
from cdvqa.inference.scorer import Scorer
from cdvqa.objectives import make_objective
from tests.inference.test_graph import BACKBONES, questions


@pytest.fixture
def scorer() -> Scorer:
    torch.manual_seed(0)
    return Scorer(BACKBONES["lxmert"](), make_objective("bce", 16, num_answers=7))


@pytest.fixture
def network(tmp_path):
    path = tmp_path / "network.safetensors"
    path.write_bytes(b"any network")
    return path


def test_sparse_rows_compute_the_same(scorer):
    assert with_sparse_rows(scorer) is None
    layer = scorer.backbone.lxmert.encoder.layer[0].intermediate.dense
    layer.weight[torch.rand(layer.weight.shape) < 0.97] = 0
    states = torch.randn(3, 5, layer.in_features)
    torch.testing.assert_close(SparseRows(layer)(states), layer(states), rtol=0, atol=1e-5)
    no_bias = nn.Linear(4, 3, bias=False)
    torch.testing.assert_close(SparseRows(no_bias)(torch.ones(4)[None]), no_bias(torch.ones(4)[None]))
    sparse, batch = with_sparse_rows(scorer), questions(3, 6, 5, True)
    assert sum(isinstance(module, SparseRows) for module in sparse.modules()) == 1
    assert not any(isinstance(module, SparseRows) for module in scorer.modules())
    torch.testing.assert_close(torch_runtime(sparse)(batch), torch_runtime(scorer)(batch), rtol=0, atol=1e-5)


def test_the_fastest_that_answers_alike_is_taken_and_remembered(scorer, network, monkeypatch):
    """A runtime with other answers is not taken, however fast it is, and nothing is timed twice."""
    batch, right = questions(4, 6, 5, True), torch_runtime(scorer)
    monkeypatch.setattr(
        runtimes,
        "candidates",
        lambda *_: {"torch": lambda: right, "wrong": lambda: lambda batch: -right(batch), "other": lambda: right},
    )
    timed = []

    def times(made, batches):
        timed.append(list(made))
        return {name: [{"torch": 3.0, "other": 2.0}[name]] for name in made}

    monkeypatch.setattr(runtimes, "latencies", times)
    for _ in range(2):
        runtime, said = fastest(scorer, "fp32", network, [batch, batch])
        assert said == "other is fastest here for 4 questions (ms: torch 3.0, other 2.0)"
        assert torch.equal(runtime(batch), right(batch))
    assert timed == [["torch", "other"]]
    fastest(scorer, "fp32", network, [questions(2, 6, 5, True)])  # another number of questions
    network.write_bytes(b"another network")
    fastest(scorer, "fp32", network, [batch])
    assert len(timed) == 3
    (stored, _) = sorted(network.parent.glob("runtimes/*/*.json"), key=lambda path: path.stat().st_mtime)
    assert json.loads(stored.read_text())["4"] == {"torch": 3.0, "other": 2.0}


def test_what_torch_cannot_trace_is_left_out(scorer, network, monkeypatch):
    def refuse(*_):
        raise InputError("no graph")

    monkeypatch.setattr(runtimes, "trace", refuse)
    monkeypatch.setattr(runtimes, "compiled_runtime", refuse)
    _, said = fastest(scorer, "fp32", network, [questions(4, 6, 5, True)])
    assert said.startswith("torch is fastest here") and "onnx" not in said and "compiled" not in said
    with pytest.raises(InputError, match="no graph"):
        fastest(scorer, "int8", network, [questions(4, 6, 5, True)])
