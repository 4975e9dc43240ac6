"""The authors' small mPLUG, loaded from a file in their format."""

import json
from dataclasses import fields

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from cdvqa.backbones import Mplug
from cdvqa.backbones.mplug.checkpoint import load_authors
from cdvqa.backbones.mplug.config import MplugConfig, VisionSizes
from cdvqa.data.batch import AnswerSequences, VQABatch
from cdvqa.data.questions.text import load_tokenizer


def sizes(arrays: dict[str, np.ndarray]) -> dict:
    """Our part of the authors' configuration."""
    config = json.loads(str(arrays["config"]))
    ours = {field.name for field in fields(MplugConfig)}
    vision = {field.name: config["vision"][field.name] for field in fields(VisionSizes)}
    return {name: value for name, value in config.items() if name in ours} | {"vision": vision}


def log_probs(model: Mplug, ids: torch.Tensor, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Of the piece after each of `ids` (N, L): (N, L, V); nothing is kept from one call to the next."""
    hidden = model.decoder.side_by_side(ids[:, None], states, mask)[:, 0]
    return model.classifier(hidden, model.decoder.embeddings.word_embeddings.weight).log_softmax(dim=-1)


@pytest.fixture
def arrays(golden) -> dict[str, np.ndarray]:
    return golden("mplug_tiny")


@pytest.fixture
def weights(arrays) -> dict[str, torch.Tensor]:
    """The authors' weights under the authors' names."""
    return {name.removeprefix("sd/"): torch.tensor(arrays[name]) for name in arrays if name.startswith("sd/")}


@pytest.fixture
def model(arrays, weights, tmp_path) -> Mplug:
    """In float64 and evaluation mode."""
    model = Mplug(11, pretrained=None, config=sizes(arrays))
    torch.save({"model": weights}, tmp_path / "mplug.pth")
    load_authors(model, tmp_path / "mplug.pth")
    return model.double().eval()


@pytest.fixture
def batch(arrays) -> VQABatch:
    counts = torch.tensor(arrays["n_answers"])
    return VQABatch(
        question_id=torch.arange(3),
        input_ids=torch.tensor(arrays["question_ids"]),
        attention_mask=torch.tensor(arrays["question_mask"]),
        image=torch.tensor(arrays["image"]),
        sequences=AnswerSequences(
            ids=torch.tensor(arrays["answer_ids"]),
            mask=torch.tensor(arrays["answer_mask"]),
            question=torch.arange(3).repeat_interleave(counts),
            weight=torch.tensor(arrays["weights"]),
            prior=torch.tensor(arrays["bias"]),
        ),
    )


@pytest.fixture
def tokenizer(tmp_path) -> Tokenizer:
    """120 word pieces w0, w1, … with [CLS] and [SEP] where BERT has them; `w7` and `##s` make `w7s`."""
    pieces = [f"w{i}" for i in range(120)]
    pieces[0], pieces[100:103], pieces[119] = "[PAD]", ["[UNK]", "[CLS]", "[SEP]"], "##s"
    (tmp_path / "vocab.txt").write_text("\n".join(pieces))
    return load_tokenizer(tmp_path / "vocab.txt")
