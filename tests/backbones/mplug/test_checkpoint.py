"""mPLUG's weights: the authors' files in all the shapes they come in, broken ones, and our own folders."""

import json
import warnings

import pytest
import torch

from cdvqa.backbones import Mplug
from cdvqa.backbones.mplug.names import resize_positions, translate
from cdvqa.errors import InputError

from .conftest import sizes

POSITIONS = "visual_encoder.visual.positional_embedding"


@pytest.fixture
def load(arrays, tmp_path):
    """Save `content` as a torch file, and load it into a fresh model."""

    def load(content, path=tmp_path / "weights.pth", **other):
        if content is not None:
            torch.save(content, path)
        model = Mplug(11, pretrained=None, config=sizes(arrays) | other)
        model.pretrained = str(path)
        return model, model.load_pretrained()

    return load


def test_every_weight_is_filled_and_what_is_left_over_is_named(load, weights, model):
    extra = {
        "visual_encoder_m.visual.conv1.weight": torch.zeros(2),
        "text_encoder_m.encoder.layer.0.output.dense.bias": torch.zeros(2),
        "text_encoder_m.embeddings.word_embeddings.weight": torch.zeros(2),
        "visual_encoder.transformer.resblocks.0.ln_1.weight": torch.zeros(2),
        "visual_encoder.logit_scale": torch.zeros(()),
        "fusion_encoder.encoder.layer.0.attention.self.query.weight": torch.zeros(16, 16),
        "text_decoder.cls.predictions.decoder.weight": torch.zeros(120, 16),
        "temp": torch.zeros(()),
    }
    loaded, report = load({"model": weights | extra, "epoch": 3})
    assert report.share == 1 and report.missing == []
    assert report.unexpected == sorted([*extra, "visual_encoder.visual.proj"])
    torch.testing.assert_close(loaded.state_dict(), model.float().state_dict())
    assert loaded.training
    assert not loaded.fusion.layer["9"].crossattention.self.key.weight.requires_grad


def test_names_of_wrapped_encoders_and_of_deepspeed(load, weights, model):
    def wrapped(name: str) -> str:
        name = name.replace("text_encoder.", "text_encoder.bert.")
        return name.replace("fusion_encoder.", "fusion_encoder.fusion.bert.")

    assert "text_encoder.bert.encoder.layer.0.output.dense.bias" in {wrapped(name) for name in weights}
    loaded, report = load({"module": {wrapped(name): tensor.half() for name, tensor in weights.items()}})
    assert report.share == 1
    torch.testing.assert_close(loaded.state_dict(), model.float().state_dict(), rtol=1e-3, atol=1e-3)


def test_a_file_of_before_torch_1_6_is_read_too(weights, model, load, tmp_path):
    torch.save({"model": weights}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    loaded, _ = load(None, tmp_path / "old.pth")
    torch.testing.assert_close(loaded.state_dict(), model.float().state_dict())


def test_positions_are_resized_to_the_size_of_the_pictures(load, weights):
    grid = torch.arange(4.0).repeat(4)  # all rows alike
    theirs = torch.cat([torch.full((1, 16), 7.0), grid.reshape(16, 1).expand(16, 16)])
    vision = {"input_resolution": 32, "patch_size": 4, "width": 16, "layers": 2, "heads": 4}
    loaded, report = load({"model": weights | {POSITIONS: theirs}}, vision=vision)
    ours = loaded.vision.embeddings.position_embedding.weight
    assert report.share == 1 and ours.shape == (65, 16)
    assert ours[0].eq(7).all()
    # Halving the step between pixel centres: 0, .25, .75, 1.25, …, held at the edges.
    row = torch.tensor([0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.0])
    torch.testing.assert_close(ours[1:, 0].reshape(8, 8), row.expand(8, 8))
    assert resize_positions(theirs, 17) is theirs


def test_a_checkpoint_without_a_decoder_leaves_it_fresh_and_says_so(load, weights):
    encoders = {name: tensor for name, tensor in weights.items() if not name.startswith("text_decoder.")}
    with pytest.warns(UserWarning, match="no text decoder in this checkpoint"):
        loaded, report = load({"model": encoders})
    assert report.share == 1
    assert report.missing and all(name.startswith(("decoder.", "classifier.")) for name in report.missing)
    assert report.total == sum(
        tensor.numel()
        for name, tensor in loaded.state_dict().items()
        if not name.startswith(("decoder.", "classifier."))
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load({"model": weights})


def refusal(load, content=None, **where) -> str:
    with pytest.raises(InputError) as caught:
        load(content, **where)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_not_a_checkpoint_is_refused_in_one_line(load, weights, tmp_path):
    path = tmp_path / "weights.pth"
    assert "no such file; name mPLUG's checkpoint" in refusal(load, path=tmp_path / "absent.pth")
    torch.save({"model": weights}, path)
    whole = path.read_bytes()
    for part in (whole[: len(whole) // 2], whole[:100], b"", b"<html>404</html>" * 40):
        path.write_bytes(part)
        assert "it is not a torch file, or not all of it" in refusal(load)
    assert "neither `model` nor `module`" in refusal(load, weights)
    assert "neither `model` nor `module`" in refusal(load, [1, 2])
    assert "it holds more than tensors and numbers" in refusal(load, {"model": weights, "args": Mplug})


def test_weights_of_another_model_are_refused_by_name(load, weights):
    wider = weights | {"text_encoder.embeddings.position_embeddings.weight": torch.zeros(512, 16)}
    text = refusal(load, {"model": wider})
    assert "text.embeddings.position_embeddings.weight is (512, 16) where the model has (24, 16)" in text
    text = refusal(load, {"model": weights | {POSITIONS: torch.zeros(12, 16)}})
    assert "position_embedding.weight is (12, 16) where the model has (17, 16)" in text
    few = {name: tensor for name, tensor in weights.items() if "fusion_encoder.encoder.layer.8" not in name}
    text = refusal(load, {"model": few})
    assert "first missing: fusion.layer.8.attention.output.LayerNorm.bias" in text
    assert "this is not a checkpoint of mPLUG" in text
    assert "first missing" in refusal(load, {"model": {"something.else": torch.zeros(3)}})


def test_a_folder_of_our_own_makes_the_same_model(model, batch, tmp_path):
    model.float().save_pretrained(tmp_path / "small")
    assert sorted(path.name for path in (tmp_path / "small").iterdir()) == ["config.json", "model.safetensors"]
    again = Mplug(11, pretrained=str(tmp_path / "small"))
    assert again.config == model.config and again.description == model.description
    json.dumps(again.description)
    report = again.load_pretrained()
    assert report.share == 1 and report.missing == [] and report.unexpected == []
    torch.testing.assert_close(again.eval()(batch).sequence.logits, model(batch).sequence.logits, rtol=0, atol=0)


def test_a_broken_folder_is_refused_in_one_line(model, load, tmp_path):
    folder = tmp_path / "small"
    model.float().save_pretrained(folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert "model.safetensors: cannot be read" in refusal(load, path=folder)
    weights.unlink()
    assert "model.safetensors: cannot be read" in refusal(load, path=folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json: cannot be read as JSON"):
        Mplug(11, pretrained=str(folder))
    (folder / "config.json").write_text("[]")
    with pytest.raises(InputError, match="not a table of sizes"):
        Mplug(11, pretrained=str(folder))
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match=r"config\.json: cannot be read"):
        Mplug(11, pretrained=str(folder))


def test_query_key_and_value_are_the_thirds_of_clips_projection():
    expected = {
        "vision.encoder.layers.11.self_attn.q_proj.bias": [0, 1],
        "vision.encoder.layers.11.self_attn.k_proj.bias": [2, 3],
        "vision.encoder.layers.11.self_attn.v_proj.bias": [4, 5],
    }
    theirs = {"visual_encoder.visual.transformer.resblocks.11.attn.in_proj_bias": torch.arange(6)}
    ours, foreign = translate(theirs, expected)
    assert foreign == [] and {name: tensor.tolist() for name, tensor in ours.items()} == expected


def test_a_model_without_memory_reports_without_a_warning(model, tmp_path):
    model.save_pretrained(tmp_path / "own")
    with torch.device("meta"):
        shapes = Mplug(11, pretrained=str(tmp_path / "own"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert shapes.load_pretrained().share == 1
