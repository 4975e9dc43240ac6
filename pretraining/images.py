"""Training of a model with images: which thing has its centre in each patch, and whether the question names it.

Images have no noise. The model generates its answers, so their words are in its vocabulary.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

from cdvqa.backbones import Mplug
from cdvqa.backbones.mplug.encoders import with_image
from cdvqa.worlds.drawing import HEIGHT, WIDTH, Thing, draw_scene
from pretraining.learner import KINDS, Learner, kind_loss, naming_loss
from pretraining.questions import ANSWERS, Asked, what_it_is

BRACKETS = {"start": "[CLS]", "end": "[SEP]"}  # of an answer
SIDE, PATCH = 96, 12
GRID = SIDE // PATCH
SIZES = {
    "hidden_size": 64,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "max_position_embeddings": 20,
    "text_encoder_layers": 1,
    "num_hidden_layers": 4,
    "fusion_layers": 4,
    "stride_layer": 2,  # the third attends to image and text as one sequence
    "text_decode_layers": 1,
    "initializer_range": 0.08,
    "vision": {"input_resolution": SIDE, "patch_size": PATCH, "width": 64, "layers": 2, "heads": 4},
}


class MplugLearner(Learner):
    """mPLUG with heads on its patch outputs, before and after the fusion with the question.

    All questions about an image are in one batch, so that it is encoded once.
    """

    batch, steps, rate = 32, 5_000, 2e-3

    def __init__(self, tokenizer: Tokenizer, asked: Asked) -> None:
        super().__init__()
        around = {f"{name}_token_id": tokenizer.token_to_id(piece) for name, piece in BRACKETS.items()}
        config = {**SIZES, **around, "vocab_size": tokenizer.get_vocab_size()}
        self.model = Mplug(len(ANSWERS), pretrained=None, config=config)
        width = self.model.hidden_size
        self.patch_head = nn.Linear(width, 1 + sum(KINDS))
        self.naming_head = nn.Linear(width, 2)
        self.asked = asked
        self.first = [0, *torch.bincount(asked.image).cumsum(0).tolist()]  # the first question of each image
        self.units = len(asked.scenes)
        self.pictures = np.stack([picture(scene) for scene in asked.scenes])
        self.things = torch.stack([patch_contents(scene) for scene in asked.scenes])
        pieces = [tokenizer.encode(f"{answer}[SEP]") for answer in ANSWERS]
        self.spelt = nn.utils.rnn.pad_sequence([torch.tensor(piece.ids) for piece in pieces], batch_first=True)

    def losses(self, rows: Tensor, noise: float) -> dict[str, Tensor]:
        question = torch.cat([torch.arange(self.first[row], self.first[row + 1]) for row in rows.tolist()])
        image, of_image = self.asked.image[question].unique(return_inverse=True)
        ids = self.asked.ids[question]
        mask = ids > 0
        seen = self.model.vision(self.shown(image))
        both, text = self.model.fusion(seen[of_image], self.model.text(ids, mask), mask)
        states, states_mask = torch.cat([both, text], dim=1), with_image(mask, both.shape[1])
        return {
            "answers": self.answer_loss(states, states_mask, self.asked.target[question]),
            "patches": self.patch_loss(seen[:, 1:], self.things[image]),
            "naming": 2 * self.naming_loss(both[:, 1:], self.things[image[of_image]], self.asked.named[question]),
        }

    def answer_loss(self, states: Tensor, mask: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy of the most frequent answer's word pieces, summed per question."""
        said = self.spelt[target.argmax(dim=1)]
        decoder = self.model.decoder
        hidden = decoder.side_by_side(said[:, None, :-1], states, mask)[:, 0]
        scores = self.model.classifier(hidden, decoder.embeddings.word_embeddings.weight)
        return functional.cross_entropy(scores.mT, said[:, 1:], ignore_index=0, reduction="sum") / len(said)

    def patch_loss(self, patches: Tensor, things: Tensor) -> Tensor:
        """Loss of the thing that has its centre in each patch, if there is one."""
        real = things[..., 0] >= 0
        is_thing, *kinds = self.patch_head(patches).split([1, *KINDS], dim=-1)
        found = functional.binary_cross_entropy_with_logits(is_thing[..., 0], real.float())
        return 2 * found + kind_loss(tuple(kind[real] for kind in kinds), things[real])

    def naming_loss(self, patches: Tensor, things: Tensor, named: Tensor) -> Tensor:
        """Loss of whether the question names the thing that has its centre in a patch."""
        real = things[..., 0] >= 0
        return naming_loss(self.naming_head(patches[real]), things[real], named[:, None].expand(-1, GRID**2, -1)[real])

    def shown(self, image: Tensor) -> Tensor:
        """Normalised images, (B, 3, S, S)."""
        assert self.model.image_format is not None
        _, mean, std = (torch.tensor(values) for values in self.model.image_format)
        return ((torch.from_numpy(self.pictures[image.numpy()]) / 255 - mean) / std).permute(0, 3, 1, 2)

    def save(self, output: Path) -> None:
        self.model.save_pretrained(output)


def picture(scene: list[Thing]) -> np.ndarray:
    """The image that the model sees, (96, 96, 3)."""
    return np.asarray(draw_scene(scene).resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def patch_contents(scene: list[Thing]) -> Tensor:
    """Colour, shape and size of the thing that has its centre in each patch, −1 without one, (64, 3)."""
    seen = torch.full((GRID**2, 3), -1)
    for thing in scene:
        seen[thing.y * GRID // HEIGHT * GRID + thing.x * GRID // WIDTH] = torch.tensor(what_it_is(thing))
    return seen
