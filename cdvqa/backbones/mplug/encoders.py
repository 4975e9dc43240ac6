"""mPLUG's encoders of the image and the question."""

import torch
from torch import Tensor, nn
from transformers.models.bert.modeling_bert import BertEmbeddings, BertLayer, BertPreTrainedModel
from transformers.models.clip.modeling_clip import CLIPVisionModel

from cdvqa.backbones.mplug.config import MplugConfig


class VisionEncoder(CLIPVisionModel):
    """CLIP's vision transformer without its last projection; the last norm is applied to all tokens."""

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, S, S) → class token and patches, (B, 1 + P, H)."""
        hidden = self.pre_layrnorm(self.embeddings(image))
        for layer in self.encoder.layers:
            hidden = layer(hidden, None)
        normed: Tensor = self.post_layernorm(hidden)
        return normed


class TextEncoder(BertPreTrainedModel):
    """BERT's first layers."""

    def __init__(self, config: MplugConfig) -> None:
        bert = config.bert(cross_attention=False)
        super().__init__(bert)
        self.embeddings = BertEmbeddings(bert)
        self.layer = nn.ModuleList(BertLayer(bert) for _ in range(config.text_encoder_layers))
        BertPreTrainedModel.post_init(self)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """(B, T) word pieces and their mask → (B, T, H)."""
        hidden: Tensor = self.embeddings(ids)
        for layer in self.layer:
            hidden = layer(hidden, mask[:, None, None])
        return hidden


class Fusion(BertPreTrainedModel):
    """Cross-modal skip connections: the text attends to the image, and in connected layers both attend to each other.

    Layers have the indices of the authors' checkpoints. A connected layer also has a cross-attention, which is frozen:
    it is counted and pruned as the others, but never computed.
    """

    def __init__(self, config: MplugConfig) -> None:
        bert = config.bert(cross_attention=True)
        super().__init__(bert)
        self.layer = nn.ModuleDict({str(i): BertLayer(bert) for i in config.fusion_indices})
        self.connected = {str(i) for i in config.fusion_indices if config.connected(i)}
        BertPreTrainedModel.post_init(self)
        for name in self.connected:
            self.layer[name].crossattention.requires_grad_(False)

    def forward(self, image: Tensor, text: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Image (B, 1 + P, H) and text (B, T, H) with its mask (B, T) → both, fused, of the same shapes."""
        both_mask = with_image(mask, image.shape[1])
        for name, layer in self.layer.items():
            if name in self.connected:
                both = layer(torch.cat([image, text], dim=1), both_mask[:, None, None])
                # Only the image has the skip connection; the text has the layer's own residuals.
                change, text = both.split([image.shape[1], text.shape[1]], dim=1)
                image = image + change
            else:
                text = layer(text, mask[:, None, None], image)
        return image, text


def with_image(mask: Tensor, tokens: int) -> Tensor:
    """The mask (B, tokens + T) of a sequence of image tokens and text, from the text's mask (B, T)."""
    return torch.cat([mask.new_ones(len(mask), tokens), mask], dim=1)
