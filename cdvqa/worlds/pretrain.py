"""How the small LXMERT that ships for `scenes` was made: `python -m cdvqa.worlds.pretrain`.

It learns the balanced world: first without noise, then with fresh noise at each step, since a model that never met
noise loses what it knows in the first steps of stage 1. Besides the answers it learns what LXMERT's own pre-training
taught: what each region is and where, and which regions the question names; without these the answers stay at chance
for longer.

The answer head ships with it. A fresh one of this width has to push every logit down before anything else, and the few
hundred steps which that takes move the small body so far that most of what it knew is lost; LXMERT-base, twelve times
wider, does not have this problem.
"""

import shutil
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import LxmertConfig, LxmertModel

from cdvqa.backbones.head import answer_head, save_answer_head
from cdvqa.data.text import load_tokenizer, tokenise
from cdvqa.worlds.drawing import COLOURS, FEATURE_SIZE, REGIONS, SHAPES, SIZES, Regions, cut_regions, draw_scene
from cdvqa.worlds.layout import write_vocabulary
from cdvqa.worlds.scene_folder import SHIPPED_LXMERT
from cdvqa.worlds.scene_questions import LANGUAGE, PLURALS, QUESTION_TYPES, Question, annotate
from cdvqa.worlds.scenes import SceneConstants, ask_scenes

QUESTIONS, STEPS, BATCH, RATE = 128_000, 12_000, 64, 1e-3
NOISE = 2.2  # the most that the second half adds
REGION_OUTPUTS = [len(COLOURS), len(SHAPES), len(SIZES), 4, 2]  # what a region is, its box, its words in the question
ANSWERS = sorted({answer for kind in QUESTION_TYPES.values() for answer in kind.answers})


class Asked(NamedTuple):
    """N questions over M images.

    `features` (M, 10, 128), `boxes` (M, 10, 4), `things` (M, 10, 3) numbers of colour, shape and size or -1,
    `image` (N,) row of the question's image, `ids` (N, T), `named` (N, colours + shapes) 1 where the question has the
    word, `target` (N, A) soft scores.
    """

    features: Tensor
    boxes: Tensor
    things: Tensor
    image: Tensor
    ids: Tensor
    named: Tensor
    target: Tensor


def small_config(vocabulary_size: int) -> LxmertConfig:
    """Width 64; 2 language, 1 vision and 2 cross-modality layers. An initialisation of 0.02 stalls at this width."""
    return LxmertConfig(
        vocab_size=vocabulary_size,
        hidden_size=64,
        num_attention_heads=4,
        intermediate_size=256,
        l_layers=2,
        r_layers=1,
        x_layers=2,
        visual_feat_dim=FEATURE_SIZE,
        max_position_embeddings=20,
        initializer_range=0.08,
    )


def pretrain(output: Path = SHIPPED_LXMERT, seed: int = 0) -> None:
    """Make the checkpoint in Hugging Face's format, with its vocabulary and answer head, replacing `output`."""
    torch.manual_seed(seed)
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    write_vocabulary(output / "vocab.txt", LANGUAGE)
    asked = ask_balanced(QUESTIONS, seed, output / "vocab.txt")
    model = LxmertModel(small_config(len((output / "vocab.txt").read_text().splitlines())))
    save_answer_head(_train(model, asked), ANSWERS, output)
    model.config.hidden_dropout_prob = model.config.attention_probs_dropout_prob = 0.1
    model.save_pretrained(output)


def ask_balanced(count: int, seed: int, vocabulary: Path) -> Asked:
    """Ask `count` questions about the balanced world without noise."""
    rng = np.random.default_rng([seed, 1])
    constants = SceneConstants().balanced()
    regions: list[Regions] = []
    image: list[int] = []
    questions: list[Question] = []
    for scene in ask_scenes(count, constants.prior_strength, False, constants.questions_per_image, rng):
        image += [len(regions)] * len(scene.questions)
        questions += scene.questions
        regions.append(cut_regions(draw_scene(scene.things), scene.things, constants.noise, rng))
    target = torch.zeros(len(questions), len(ANSWERS))
    for row, question in enumerate(questions):
        for answer in annotate(question, rng, constants.hard_share):
            target[row, ANSWERS.index(answer["answer"])] += 1 / 3
    text = [question.text for question in questions]
    pieces = tokenise(text, load_tokenizer(vocabulary), "standard")
    assert pieces.lengths is not None
    return Asked(
        features=torch.from_numpy(np.stack([region.features for region in regions])),
        boxes=torch.from_numpy(np.stack([region.boxes for region in regions])),
        things=torch.stack([_what_regions_show(region) for region in regions]),
        image=torch.tensor(image),
        ids=torch.from_numpy(pieces.ids[:, : pieces.lengths.max()].astype(np.int64)),
        named=torch.tensor([_named_words(question) for question in text]),
        target=target.clamp(max=1),
    )


def _what_regions_show(region: Regions) -> Tensor:
    shown = torch.full((REGIONS, 3), -1)
    for slot, thing in enumerate(region.things):
        shown[slot] = torch.tensor(
            [list(COLOURS).index(thing.colour), SHAPES.index(thing.shape), list(SIZES).index(thing.size)]
        )
    return shown


def _named_words(question: str) -> list[float]:
    words = question.rstrip("?").split()
    colours = [float(colour in words) for colour in COLOURS]
    return colours + [float(shape in words or plural in words) for shape, plural in PLURALS.items()]


def _train(model: LxmertModel, asked: Asked) -> nn.Sequential:
    """Train `model` and return its answer head. Dropout is off: with it the first, flat part takes longer."""
    model.eval()
    width = model.config.hidden_size
    heads = nn.ModuleList([answer_head(width, len(ANSWERS)), nn.Linear(width, sum(REGION_OUTPUTS))]).eval()
    parameters = [*model.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / 200, 1, 1.5 * (STEPS - step) / STEPS)
    )
    epochs = -(-STEPS * BATCH // len(asked.image))
    rows = torch.cat([torch.randperm(len(asked.image)) for _ in range(epochs)])
    for step, batch in enumerate(rows[: STEPS * BATCH].split(BATCH), 1):
        noise = NOISE if 2 * step > STEPS else 0.0
        answer_loss, region_loss = _losses(model, heads, asked, batch, noise)
        optimizer.zero_grad()
        (answer_loss + region_loss).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if step % 250 == 0:
            print(f"step {step}: answers {answer_loss.item():.3f}, regions {region_loss.item():.3f}", flush=True)
    return cast(nn.Sequential, heads[0])


def _losses(
    model: LxmertModel, heads: nn.ModuleList, asked: Asked, batch: Tensor, noise: float
) -> tuple[Tensor, Tensor]:
    """Answer and region losses; each image gets fresh noise of a strength between 0 and `noise`."""
    image, ids = asked.image[batch], asked.ids[batch]
    real = asked.things[image][..., 0] >= 0
    features = asked.features[image]
    features = features + noise * torch.rand(len(batch), 1, 1) * torch.randn_like(features) * real[..., None]
    output = model(
        input_ids=ids,
        attention_mask=(ids > 0).float(),
        visual_feats=features,
        visual_pos=asked.boxes[image],
        visual_attention_mask=real.float(),
    )
    answer_head, region_head = heads
    answers = functional.binary_cross_entropy_with_logits(
        answer_head(output.pooled_output), asked.target[batch], reduction="sum"
    ) / len(batch)

    things = asked.things[image][real]
    named = asked.named[batch][:, None].expand(-1, REGIONS, -1)[real]
    is_named = named.gather(1, things[:, :2] + torch.tensor([0, len(COLOURS)]))
    *kinds, boxes, naming = region_head(output.vision_output[real]).split(REGION_OUTPUTS, dim=-1)
    regions = sum(functional.cross_entropy(kind, thing) for kind, thing in zip(kinds, things.unbind(-1), strict=True))
    regions += 10 * functional.mse_loss(boxes, asked.boxes[image][real])
    regions += 2 * functional.binary_cross_entropy_with_logits(naming, is_named)
    return answers, regions


if __name__ == "__main__":
    pretrain()
