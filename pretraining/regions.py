"""Training of models with region features: what each region is and where, and which regions the question names.

The answer head ships too. A new head of this width first pushes every logit down. That takes a few hundred steps, in
which the small body forgets most of what it learned. LXMERT-base, eight times wider, does not have this problem.
"""

from abc import abstractmethod
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional
from transformers import LxmertConfig, LxmertModel, PreTrainedModel, VisualBertConfig, VisualBertModel

from cdvqa.backbones.head import answer_head, save_answer_head
from cdvqa.worlds.drawing import FEATURE_SIZE, REGIONS
from pretraining.learner import KINDS, Learner, kind_loss, naming_loss
from pretraining.questions import ANSWERS, Asked, what_it_is

NAMING = 2


class Look(NamedTuple):
    """B questions with the regions of their images: `ids` (B, T), `features` (B, 10, 128), `boxes` (B, 10, 4), `real`
    (B, 10) bool, True on regions.
    """

    ids: Tensor
    features: Tensor
    boxes: Tensor
    real: Tensor


class RegionLearner(Learner):
    """A model from transformers with an answer head, and a head on its region outputs.

    Attributes:
        width: hidden units.

    Args:
        model: the model.
        box_outputs: outputs of the region head for a region's box; 0 for a model that does not see positions.
        asked: the questions.
    """

    batch, steps = 64, 12_000
    width: ClassVar[int]

    def __init__(self, model: PreTrainedModel, box_outputs: int, asked: Asked) -> None:
        super().__init__()
        self.model = model
        self.answer_head = answer_head(self.width, len(ANSWERS))
        self.region_outputs = [*KINDS, box_outputs, NAMING]
        self.region_head = nn.Linear(self.width, sum(self.region_outputs))
        self.asked = asked
        self.units = len(asked.image)
        self.features = torch.from_numpy(np.stack([regions.features for regions in asked.regions]))
        self.boxes = torch.from_numpy(np.stack([regions.boxes for regions in asked.regions]))
        self.things = torch.full((len(asked.regions), REGIONS, 3), -1)
        for row, regions in enumerate(asked.regions):
            self.things[row, : len(regions.things)] = torch.tensor([what_it_is(thing) for thing in regions.things])

    @abstractmethod
    def see(self, look: Look) -> tuple[Tensor, Tensor]:
        """The pooled output (B, H) and the outputs at the regions (B, 10, H)."""

    def losses(self, rows: Tensor, noise: float) -> dict[str, Tensor]:
        image = self.asked.image[rows]
        real = self.things[image][..., 0] >= 0
        features = self.features[image]
        features = features + noise * torch.rand(len(rows), 1, 1) * torch.randn_like(features) * real[..., None]
        pooled, outputs = self.see(Look(self.asked.ids[rows], features, self.boxes[image], real))
        answers = functional.binary_cross_entropy_with_logits(
            self.answer_head(pooled), self.asked.target[rows], reduction="sum"
        ) / len(rows)
        *kinds, boxes, naming = self.region_head(outputs[real]).split(self.region_outputs, dim=-1)
        things = self.things[image][real]
        regions = kind_loss(tuple(kinds), things)
        if boxes.shape[-1]:
            regions = regions + 10 * functional.mse_loss(boxes, self.boxes[image][real])
        named = self.asked.named[rows][:, None].expand(-1, REGIONS, -1)[real]
        return {"answers": answers, "regions": regions + 2 * naming_loss(naming, things, named)}

    def save(self, output: Path) -> None:
        save_answer_head(self.answer_head, ANSWERS, output)
        self.model.save_pretrained(output)


class LxmertLearner(RegionLearner):
    """2 language, 1 vision and 2 cross-modality layers. An initialisation of 0.02 stalls at this width.

    With 64 units, one-shot pruning of half of the weights cost 9 points out of distribution; with 96 it costs 2.
    """

    width = 96

    def __init__(self, tokenizer: Tokenizer, asked: Asked) -> None:
        config = LxmertConfig(
            vocab_size=tokenizer.get_vocab_size(),
            hidden_size=self.width,
            num_attention_heads=4,
            intermediate_size=4 * self.width,
            l_layers=2,
            r_layers=1,
            x_layers=2,
            visual_feat_dim=FEATURE_SIZE,
            max_position_embeddings=20,
            initializer_range=0.08,
        )
        super().__init__(LxmertModel(config), 4, asked)

    def see(self, look: Look) -> tuple[Tensor, Tensor]:
        output = self.model(
            input_ids=look.ids,
            attention_mask=(look.ids > 0).float(),
            visual_feats=look.features,
            visual_pos=look.boxes,
            visual_attention_mask=look.real.float(),
        )
        return output.pooled_output, output.vision_output


class VisualBertLearner(RegionLearner):
    """4 layers. As published it does not see positions, so it can only guess at left and right."""

    width = 64

    def __init__(self, tokenizer: Tokenizer, asked: Asked) -> None:
        config = VisualBertConfig(
            vocab_size=tokenizer.get_vocab_size(),
            hidden_size=self.width,
            num_attention_heads=4,
            intermediate_size=4 * self.width,
            num_hidden_layers=4,
            visual_embedding_dim=FEATURE_SIZE,
            max_position_embeddings=20,
            initializer_range=0.08,
            pad_token_id=0,
        )
        super().__init__(VisualBertModel(config), 0, asked)

    def see(self, look: Look) -> tuple[Tensor, Tensor]:
        output = self.model(
            input_ids=look.ids,
            attention_mask=(look.ids > 0).float(),
            visual_embeds=look.features,
            visual_attention_mask=look.real.float(),
        )
        return output.pooler_output, output.last_hidden_state[:, look.ids.shape[1] :]
