"""mPLUG as a backbone: trained on the human answers as sequences; at evaluation it generates an answer."""

from collections.abc import Iterable
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any, Optional

import torch
from jsonargparse.typing import PositiveInt
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import EncoderDecoderCache

from cdvqa.backbones.backbone import Backbone, LoadReport
from cdvqa.backbones.huggingface import BERT_ATTENTION, BERT_LAYER, bert_layer, check_from_scratch, heads, neurons
from cdvqa.backbones.mplug.checkpoint import load_authors, load_folder, read_config, save_folder
from cdvqa.backbones.mplug.config import MplugConfig
from cdvqa.backbones.mplug.decoder import Decoder, LanguageModelHead
from cdvqa.backbones.mplug.encoders import Fusion, TextEncoder, VisionEncoder, with_image
from cdvqa.backbones.mplug.generation import beam_search
from cdvqa.backbones.mplug.ranking import Spelling, likeliest
from cdvqa.data.batch import VQABatch
from cdvqa.data.visual.source import ImageFormat
from cdvqa.objectives import Output, SequenceOutput
from cdvqa.sparsity.patterns import Structure

CROSS_ATTENTION = tuple(f"crossattention.{part}" for part in BERT_ATTENTION)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class Mplug(Backbone):
    """mPLUG: CLIP's vision transformer, a BERT text encoder, fusion with skip connections, and a BERT decoder.

    Args:
        num_answers: size of the answer vocabulary; linked to data.num_answers. mPLUG generates its answers, so only
            `rank` uses the vocabulary.
        pretrained: the authors' checkpoint (a file with `model`, or DeepSpeed's with `module`), or a folder with
            config.json and model.safetensors; null starts from random weights.
        config: sizes under the names of the authors' configuration files, for a model from scratch; null takes those
            of the folder, or mPLUG-base.
        beam_size: number of beams of the search for an answer.
        max_length: largest number of word pieces of an answer, its end included.
        rank: null generates any answer; a number chooses from the vocabulary, among as many answers whose first word
            pieces are most likely (the authors' k_test is 128).
        vision_lr: learning rate of the vision encoder and its scores; null takes that of the rest. The authors use 5e-6
            with 3e-5 for the rest.
    """

    name = "mplug"
    generates = True
    counting_note = (
        "The published 182M of 350M (52 %) for half of mPLUG is a miscount: the script leaves weights out by a part of "
        "their name, and the fusion encoder's `layer.1` also matches layers 10 and 11. Half of the masked matrices is "
        "134 of all 347 million parameters; 213 million (61 %) are kept."
    )

    def __init__(
        self,
        num_answers: int,
        pretrained: Optional[str] = "mplug_base.pth",
        config: Optional[dict[str, Any]] = None,
        beam_size: PositiveInt = 5,
        max_length: PositiveInt = 10,
        rank: Optional[PositiveInt] = None,
        vision_lr: Optional[float] = None,
    ) -> None:
        super().__init__()
        check_from_scratch(pretrained, config)
        self.num_answers, self.pretrained, self.vision_lr = num_answers, pretrained, vision_lr
        self.beam_size, self.max_length, self.rank = beam_size, max_length, rank
        self.config = architecture(pretrained, config)
        self.hidden_size = self.config.hidden_size
        self.image_format = ImageFormat(self.config.vision.input_resolution, CLIP_MEAN, CLIP_STD)
        self.vision = VisionEncoder(self.config.clip())
        self.text = TextEncoder(self.config)
        self.fusion = Fusion(self.config)
        self.decoder = Decoder(self.config)
        self.classifier = LanguageModelHead(self.config)
        self._spelling: Spelling | None = None

    # --- training -------------------------------------------------------------------------------------------------

    def forward(self, batch: VQABatch) -> Output:
        """Score each word piece of each human answer, given those before it: `Output.sequence` alone is set."""
        sequences = batch.sequences
        assert sequences is not None, "a generative backbone is trained on batch.sequences"
        states, mask = self.encode(batch)
        ids, question = sequences.ids[:, :-1], sequences.question
        # `question` ascends, so this numbers the answers to each question from 0.
        number = torch.arange(len(ids), device=ids.device) - torch.searchsorted(question, question)
        answers = ids.new_zeros(len(states), int(number.max()) + 1, ids.shape[1])
        answers[question, number] = ids
        logits = self._head(self.decoder.side_by_side(answers, states, mask)[question, number])
        target = sequences.ids[:, 1:].masked_fill(sequences.mask[:, 1:] == 0, -100)
        sequence = SequenceOutput(logits, target, sequences.weight, sequences.prior, len(states))
        return Output(None, None, sequence)

    def encode(self, batch: VQABatch) -> tuple[Tensor, Tensor]:
        """Image and question as one sequence (B, 1 + P + T, H), and its mask (B, 1 + P + T) bool."""
        ids, mask = batch.input_ids, batch.attention_mask
        assert ids is not None and batch.image is not None, "mPLUG reads word pieces and sees the image itself"
        mask = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
        image, text = self.fusion(self.vision(batch.image), self.text(ids, mask), mask)
        return torch.cat([image, text], dim=1), with_image(mask, image.shape[1])

    def next_piece(
        self,
        ids: Tensor,
        states: Tensor,
        states_mask: Tensor,
        positions: Tensor,
        mask: Tensor,
        cache: EncoderDecoderCache,
    ) -> Tensor:
        """Scores of the word piece after each of `ids`, (B, L, V); the decoder explains the arguments."""
        return self._head(self.decoder(ids, states, states_mask, positions, mask, cache))

    def _head(self, hidden: Tensor) -> Tensor:
        scores: Tensor = self.classifier(hidden, self.decoder.embeddings.word_embeddings.weight)
        return scores

    # --- answers --------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def answer(self, batch: VQABatch) -> list[str]:
        spelling = self.spelling()
        with parametrize.cached():  # masked weights are computed once, not at every word piece
            states, mask = self.encode(batch)
            if self.rank is not None:
                best = likeliest(self.decoder.side_by_side, self._head, states, mask, spelling, self.rank)
                return [spelling.answers[index] for index in best.tolist()]
            start, end = self.delimiters()
            ids, lengths, _ = beam_search(
                self.next_piece,
                states,
                mask,
                beam_size=self.beam_size,
                max_length=self.max_length,
                start=start,
                end=end,
            )
        pieces = zip(ids.tolist(), lengths.tolist(), strict=True)
        return [spelling.read(row[:length]) for row, length in pieces]

    def delimiters(self) -> tuple[int, int]:
        """The tokens before and after an answer."""
        if self.tokenizer is None:
            return self.config.start_token_id, self.config.end_token_id
        start, end = (self.tokenizer.token_to_id(token) for token in ("[CLS]", "[SEP]"))
        assert start is not None and end is not None, "load_tokenizer has seen to it"
        return start, end

    def spelling(self) -> Spelling:
        """The vocabulary's answers in word pieces."""
        assert self.answers is not None and self.tokenizer is not None, "the stage hands both over before evaluation"
        if self._spelling is None or self._spelling.answers is not self.answers:
            self._spelling = Spelling(self.answers, self.tokenizer, *self.delimiters())
        return self._spelling

    # --- masks and optimiser --------------------------------------------------------------------------------------

    def matrices(self) -> dict[str, list[str]]:
        """240 matrices of mPLUG-base; embeddings, the head and the vision encoder's attention are not pruned."""
        vision = [f"encoder.layers.{i}.mlp.{part}" for i in range(self.config.vision.layers) for part in ("fc1", "fc2")]
        language = [f"layer.{i}.{part}" for i in range(self.config.text_encoder_layers) for part in BERT_LAYER]
        fusion = [f"fusion.layer.{i}" for i in self.config.fusion_indices]
        decoder = [f"decoder.layer.{i}" for i in range(self.config.text_decode_layers)]
        return {
            "vision": [f"vision.{name}.weight" for name in vision],
            "language": [f"text.{name}.weight" for name in language],
            "cross": [f"{layer}.{part}.weight" for layer in fusion + decoder for part in BERT_LAYER + CROSS_ATTENTION],
        }

    def structures(self) -> list[Structure]:
        config, found = self.config, []
        for i in range(config.vision.layers):
            mlp = f"vision.encoder.layers.{i}.mlp"
            found.append(neurons(f"{mlp}.fc1", f"{mlp}.fc2", 4 * config.vision.width))
        for i in range(config.text_encoder_layers):
            found += bert_layer(f"text.layer.{i}", config)
        fusion = [f"fusion.layer.{i}" for i in config.fusion_indices]
        for layer in fusion + [f"decoder.layer.{i}" for i in range(config.text_decode_layers)]:
            found += [*bert_layer(layer, config), heads(f"{layer}.crossattention", config.num_attention_heads)]
        return found

    def dead(self) -> list[str]:
        layers = tuple(f"fusion.layer.{i}.crossattention." for i in self.fusion.connected)
        return [name for name in self.matrices()["cross"] if name.startswith(layers)]

    def layers(self) -> Iterable[nn.Module]:
        fusion: Iterable[nn.Module] = self.fusion.layer.values()
        return chain(self.vision.encoder.layers, self.text.layer, fusion, self.decoder.layer)

    def parameter_groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """No weight decay on biases and BERT's layer norms (but on CLIP's), and the vision encoder at its own rate."""
        groups: dict[tuple[bool, bool], list[Tensor]] = {}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                kind = name.startswith("vision."), "bias" in name or "LayerNorm.weight" in name
                groups.setdefault(kind, []).append(parameter)
        return [
            {
                "params": parameters,
                "lr": self.vision_lr if of_vision and self.vision_lr is not None else lr,
                "weight_decay": 0.0 if kept else weight_decay,
            }
            for (of_vision, kept), parameters in groups.items()
        ]

    def authors_protocol(self, stage: int) -> dict[str, Any]:
        return {
            "optimizer": "adamw",
            "weight_decay": 0.02,
            "global_batch": 256,
            "warmup": 0,
            "schedule": "epoch_cosine",
            "text_format": "standard",
            "selection": "last",
            "tie_break": "strict_bf16",
        }

    def authors_also_train(self) -> list[str]:
        """Biases of query, key and value in the vision encoder, which the authors' list of frozen parameters lacks."""
        attention = tuple(f"self_attn.{part}_proj.bias" for part in ("q", "k", "v"))
        return [name for name, _ in self.vision.named_parameters(prefix="vision") if name.endswith(attention)]

    # --- weights --------------------------------------------------------------------------------------------------

    def load_pretrained(self) -> LoadReport | None:
        if self.pretrained is None:
            return None
        path = Path(self.pretrained)
        return load_folder(self, path) if path.is_dir() else load_authors(self, path)

    def save_pretrained(self, folder: Path) -> None:
        """Write sizes and weights into a folder that `pretrained` accepts."""
        save_folder(self, asdict(self.config), folder)

    def from_scratch(self) -> dict[str, Any]:
        return {"pretrained": None, "config": asdict(self.config)}

    @property
    def description(self) -> dict[str, object]:
        fields = ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads")
        shape = {field: getattr(self.config, field) for field in fields}
        vision = self.config.vision
        layers = {
            "vision": vision.layers,
            "language": self.config.text_encoder_layers,
            "cross": self.config.fusion_layers,
            "decoder": self.config.text_decode_layers,
        }
        image = {"side": vision.input_resolution, "patch": vision.patch_size, "heads": vision.heads}
        rest = {"layers": layers, "stride": self.config.stride_layer, "image": image, "answers": self.num_answers}
        return {"name": self.name, **shape, **rest}


def architecture(pretrained: str | None, config: dict[str, Any] | None) -> MplugConfig:
    """The sizes to build: those of `config`, those of the folder `pretrained`, or mPLUG-base."""
    if config is not None:
        return MplugConfig.from_dict(config, "--model.backbone.config")
    if pretrained is not None and Path(pretrained).is_dir():
        return MplugConfig.from_dict(read_config(Path(pretrained)), f"{pretrained}/config.json")
    return MplugConfig()
