"""Inputs of the tests of grid features: a small ResNet in a folder, and drawn images."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import ResNetConfig, ResNetForImageClassification

MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
# relu would let so small a network fall silent
TINY = {
    "embedding_size": 4,
    "hidden_sizes": [4, 4, 8, 20],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
    "hidden_act": "silu",
}


def save_resnet(folder: Path, seed: int = 0, mean: Any = MEAN, std: Any = STD, **config: Any) -> Path:
    """A checkpoint with a classifier, as they are published; its statistics are not those of a fresh network."""
    torch.manual_seed(seed)
    model = ResNetForImageClassification(ResNetConfig(**(TINY | config)))
    for name, values in model.state_dict().items():
        if name.endswith(("running_var", "normalization.bias")):
            values.copy_(torch.rand_like(values) + 0.5)
        if name.endswith("running_mean"):
            values.copy_(torch.randn_like(values) / 4)
    model.save_pretrained(folder)
    settings = {"do_resize": True, "size": 224, "image_mean": mean, "image_std": std}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


def draw(path: Path, seed: int, size: tuple[int, int] = (50, 40)) -> Path:
    """An image (width, height) of coloured blocks."""
    blocks = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(blocks).resize(size, Image.Resampling.NEAREST).save(path)
    return path
