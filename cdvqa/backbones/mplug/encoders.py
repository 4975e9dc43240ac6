"""mPLUG's encoders of the image and the question."""

import torch
from torch import Tensor, nn
from transformers.models.bert.modeling_bert import BertEmbeddings, BertLayer, BertPreTrainedModel
from transformers.models.clip.modeling_clip import CLIPVisionModel

from cdvqa.backbones.mplug.config import MplugConfig


class VisionEncoder(CLIPVisionModel):
    """CLIP's vision transformer without its last projection; the last norm is over all tokens, not over one."""

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, S, S) → class token and patches, (B, 1 + P, H)."""
        hidden = self.pre_layrnorm(self.embeddings(image))
        for layer in self.encoder.layers:
            hidden = layer(hidden, None)
        return self.post_layernorm(hidden)  # type: ignore[no-any-return]


class TextEncoder(BertPreTrainedModel):
    """BERT's first layers."""

    def __init__(self, config: MplugConfig) -> None:
        bert = config.bert(cross_attention=False)
        super().__init__(bert)
        self.embeddings = BertEmbeddings(bert)
        self.layer = nn.ModuleList(BertLayer(bert) for _ in range(config.text_encoder_layers))
        self.post_init()

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """(B, T) word pieces and their mask → (B, T, H)."""
        hidden = self.embeddings(ids)
        for layer in self.layer:
            hidden = layer(hidden, mask[:, None, None])
        return hidden  # type: ignore[no-any-return]


class Fusion(BertPreTrainedModel):
    """Cross-modal skip connections: the text looks at the image, and now and then both attend to each other.

    Layers keep the numbers they have in the authors' checkpoints. The cross-attention of a connected layer is there
    too, frozen: it is counted and pruned with the others, but nothing ever passes through it.
    """

    def __init__(self, config: MplugConfig) -> None:
        bert = config.bert(cross_attention=True)
        super().__init__(bert)
        self.layer = nn.ModuleDict({str(i): BertLayer(bert) for i in config.fusion_indices})
        self.connected = {str(i) for i in config.fusion_indices if config.connected(i)}
        self.post_init()
        for name in self.connected:
            self.layer[name].crossattention.requires_grad_(False)

    def forward(self, image: Tensor, text: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The image (B, 1 + P, H) and the text (B, T, H) with its mask (B, T), both as they were given in size."""
        both_mask = with_image(mask, image.shape[1])
        for name, layer in self.layer.items():
            if name in self.connected:
                both = layer(torch.cat([image, text], dim=1), both_mask[:, None, None])
                # Only the image is added to what it was: the layer's own residuals are all that the text has.
                change, text = both.split([image.shape[1], text.shape[1]], dim=1)
                image = image + change
            else:
                text = layer(text, mask[:, None, None], image)
        return image, text


def with_image(mask: Tensor, tokens: int) -> Tensor:
    """A text's mask (B, T) with that of an image's tokens before it, (B, tokens + T)."""
    return torch.cat([mask.new_ones(len(mask), tokens), mask], dim=1)
