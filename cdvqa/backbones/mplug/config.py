"""Sizes of mPLUG, under the names of the authors' configuration files."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from transformers import BertConfig, CLIPVisionConfig

from cdvqa.errors import InputError

BERT_SIZES = (
    *("vocab_size", "hidden_size", "num_attention_heads", "intermediate_size", "max_position_embeddings"),
    *("type_vocab_size", "hidden_dropout_prob", "attention_probs_dropout_prob", "initializer_range", "layer_norm_eps"),
)


@dataclass(frozen=True)
class VisionSizes:
    """The vision transformer; by default CLIP's ViT-B/16 on images of 384 x 384 pixels.

    Attributes:
        input_resolution: height and width of the images in pixels.
        patch_size: height and width of a patch in pixels.
        width: width of the tokens; feed-forward layers are four times as wide.
        layers: number of layers.
        heads: number of heads of each attention.
    """

    input_resolution: int = 384
    patch_size: int = 16
    width: int = 768
    layers: int = 12
    heads: int = 12


@dataclass(frozen=True)
class MplugConfig:
    """Sizes of mPLUG; by default those of mPLUG-base.

    Attributes:
        num_hidden_layers: number after which the fusion layers' indices end; fusion has the last `fusion_layers`.
        stride_layer: every so many fusion layers, image and text attend to each other as one sequence.
        start_token_id, end_token_id: tokens before and after an answer, used where no tokenizer is set.
    """

    vocab_size: int = 30522
    hidden_size: int = 768
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    num_hidden_layers: int = 12
    text_encoder_layers: int = 6
    fusion_layers: int = 6
    stride_layer: int = 3
    text_decode_layers: int = 12
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    start_token_id: int = 101
    end_token_id: int = 102
    vision: VisionSizes = field(default_factory=VisionSizes)

    @classmethod
    def from_dict(cls, given: Mapping[str, Any], source: str) -> "MplugConfig":
        """The sizes in `given`; those of mPLUG-base where it has none.

        Raises:
            InputError: an unknown name, or sizes that do not fit together; `source` says where `given` was read.
        """
        vision = check_names(given.get("vision", {}), VisionSizes, f"{source}: vision")
        rest = {name: value for name, value in given.items() if name != "vision"}
        config = cls(**check_names(rest, cls, source), vision=VisionSizes(**vision))
        if config.vision.width != config.hidden_size:
            raise InputError(f"{source}: vision.width must equal hidden_size, as image and text make one sequence")
        if config.hidden_size % config.num_attention_heads or config.vision.width % config.vision.heads:
            raise InputError(f"{source}: hidden_size must be a multiple of num_attention_heads and of vision.heads")
        return config

    @property
    def fusion_indices(self) -> range:
        """Indices of the fusion layers, as in the authors' checkpoints."""
        return range(self.num_hidden_layers - self.fusion_layers, self.num_hidden_layers)

    def connected(self, index: int) -> bool:
        """Whether fusion layer `index` takes image and text as one sequence; its cross-attention is then unused."""
        position = index - self.fusion_indices.start
        return position > 0 and position % self.stride_layer == 0

    def bert(self, cross_attention: bool) -> BertConfig:
        """Configuration of the text encoder's layers, or with cross-attention that of fusion and decoder."""
        sizes = {name: getattr(self, name) for name in BERT_SIZES}
        return BertConfig(
            **sizes,
            is_decoder=cross_attention,
            add_cross_attention=cross_attention,
            attn_implementation="sdpa",  # type: ignore[call-arg]
        )

    def clip(self) -> CLIPVisionConfig:
        """Configuration of the vision transformer."""
        return CLIPVisionConfig(
            hidden_size=self.vision.width,
            intermediate_size=4 * self.vision.width,
            num_hidden_layers=self.vision.layers,
            num_attention_heads=self.vision.heads,
            image_size=self.vision.input_resolution,
            patch_size=self.vision.patch_size,
            hidden_act="quick_gelu",
            layer_norm_eps=1e-5,
            attention_dropout=0.1,
            attn_implementation="sdpa",  # type: ignore[call-arg]
        )


def check_names(given: Mapping[str, Any], sizes: type, source: str) -> Mapping[str, Any]:
    """Return `given`; InputError if one of its names is no field of the dataclass `sizes`."""
    known = {size.name for size in fields(sizes)}
    for name in given:
        if name not in known:
            raise InputError(f"{source}: {name} is no size of mPLUG; it has {', '.join(sorted(known))}")
    return given
