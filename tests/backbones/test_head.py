"""The answer head, and its warm start from a pre-trained one."""

from pathlib import Path

import pytest
import torch

from cdvqa.backbones import Lxmert
from cdvqa.backbones.head import HEAD_FILE, answer_head, load_answer_head, save_answer_head
from cdvqa.errors import InputError
from cdvqa.objectives.heads import CosineHead
from cdvqa.worlds.scene_folder import SHIPPED


def test_one_scalar_norm_per_matrix_and_no_bias_at_the_start():
    head = answer_head(8, 5)
    assert {name: tuple(p.shape) for name, p in head.named_parameters()} == {
        "0.bias": (16,),
        "0.parametrizations.weight.original0": (),
        "0.parametrizations.weight.original1": (16, 8),
        "3.bias": (5,),
        "3.parametrizations.weight.original0": (),
        "3.parametrizations.weight.original1": (5, 16),
    }
    assert not head[0].bias.any() and not head[3].bias.any()
    for layer in (head[0], head[3]):
        norm, direction = layer.parametrizations.weight.original0, layer.parametrizations.weight.original1
        torch.testing.assert_close(norm, direction.norm())
        torch.testing.assert_close(layer.weight, norm * direction / direction.norm())


def test_answers_are_matched_by_their_strings(tmp_path: Path):
    theirs, ours = answer_head(8, 3).eval(), answer_head(8, 4).eval()
    for layer in (theirs[0], theirs[3]):
        torch.nn.init.normal_(layer.bias)
    save_answer_head(theirs, ["red", "blue", "yes"], tmp_path)
    assert load_answer_head(ours, ["yes", "no", "red", "2"], tmp_path) == 2
    x = torch.randn(6, 8)
    torch.testing.assert_close(ours(x)[:, [0, 2]], theirs(x)[:, [2, 0]])
    assert all(p.requires_grad and p.is_leaf for p in ours.parameters())


def test_an_objectives_own_head_starts_fresh_on_a_pre_trained_layer(tmp_path: Path):
    theirs, ours = answer_head(8, 3), answer_head(8, 4)
    save_answer_head(theirs, ["red", "blue", "yes"], tmp_path)
    ours[3] = CosineHead(16, 4)
    kernels = ours[3].kernels.detach().clone()
    assert load_answer_head(ours, ["yes", "no", "red", "2"], tmp_path) == 0
    torch.testing.assert_close(ours[0].weight, theirs[0].weight)
    assert torch.equal(ours[3].kernels, kernels)


def test_another_width_or_a_broken_file_is_refused(tmp_path: Path):
    save_answer_head(answer_head(8, 3), ["a", "b", "c"], tmp_path)
    with pytest.raises(InputError, match="of another width"):
        load_answer_head(answer_head(4, 3), ["a", "b", "c"], tmp_path)
    (tmp_path / HEAD_FILE).write_bytes(b"half")
    with pytest.raises(InputError, match="cannot read the answer head"):
        load_answer_head(answer_head(8, 3), ["a", "b", "c"], tmp_path)


def test_the_shipped_model_starts_with_its_head():
    model = Lxmert(3, pretrained=str(SHIPPED["lxmert"]))
    model.answers = ["yes", "red", "unheard of"]
    report = model.load_pretrained()
    assert report is not None and report.share == 1
    assert model.classifier[3].bias[:2].abs().min() > 0 and model.classifier[3].bias[2] == 0
    assert (model.hidden_size, model.config.l_layers, model.config.r_layers, model.config.x_layers) == (96, 2, 1, 2)
