"""LXMERT (Tan and Bansal, 2019) with the authors' answer head."""

from collections.abc import Iterable
from itertools import chain
from typing import Any, Optional

import torch
from torch import Tensor, nn
from transformers import LxmertConfig, LxmertModel

from cdvqa.backbones.backbone import LoadReport
from cdvqa.backbones.head import Classification, answer_head
from cdvqa.backbones.huggingface import (
    BERT_ATTENTION,
    BERT_LAYER,
    architecture,
    bert_layer,
    head_dropout,
    heads,
    load_from_hub,
    neurons,
    sizes_of,
)
from cdvqa.backbones.padding import masked_mean, trim_padding
from cdvqa.data.batch import VQABatch
from cdvqa.objectives import Output
from cdvqa.sparsity.patterns import Structure

CROSS_BLOCK = (
    *(f"visual_attention.{part}" for part in ("att.query", "att.key", "att.value", "output.dense")),
    *(f"{stream}_self_att.{part}" for stream in ("lang", "visn") for part in BERT_ATTENTION),
    *(f"{stream}_{part}.dense" for stream in ("lang", "visn") for part in ("inter", "output")),
)
# The pooler reads the language stream alone, so these parts of the last cross-modality layer do not affect the answer.
DEAD = ("visn_self_att", "visn_inter", "visn_output")


class Lxmert(Classification):
    """LXMERT through Hugging Face transformers.

    Args:
        num_answers: size of the answer vocabulary; linked to data.num_answers.
        pretrained: hub name, or a local folder in Hugging Face's format; null starts from random weights. A folder that
            also holds `answer_head.safetensors` warm-starts the answers it knows; published LXMERT has none, so its
            head starts fresh, as the authors' does.
        config: LXMERT's configuration as a dictionary, for a model from scratch; null takes the pre-trained model's,
            and LXMERT-base where that is not available.
    """

    name = "lxmert"

    def __init__(
        self,
        num_answers: int,
        pretrained: Optional[str] = "unc-nlp/lxmert-base-uncased",
        config: Optional[dict[str, Any]] = None,
    ) -> None:
        super().__init__()
        self.pretrained = pretrained
        self.num_answers = num_answers
        self.config = architecture(LxmertConfig, pretrained, config)
        self.hidden_size = self.config.hidden_size
        self.lxmert = LxmertModel(self.config)
        self.classifier = answer_head(self.hidden_size, num_answers, head_dropout(self.config))
        self._freeze_dead_branch()

    def forward(self, batch: VQABatch) -> Output:
        """Pooled output of the first position of the language stream, then the answer head (no dropout between)."""
        ids, mask = trim_padding(batch.input_ids, batch.attention_mask)
        outputs = self.lxmert(
            input_ids=ids,
            attention_mask=mask,
            visual_feats=batch.region_features,
            visual_pos=batch.boxes,
            visual_attention_mask=batch.region_mask,
            output_hidden_states="question" in self.asked,
        )
        hidden, question, vision = outputs.pooled_output, None, None
        if "question" in self.asked:
            question = self.question_features(outputs.language_hidden_states[self.config.l_layers - 1][:, 0])
        if "vision" in self.asked:
            with torch.no_grad():
                regions = self.lxmert.encoder.visn_fc(batch.region_features, batch.boxes)
            vision = masked_mean(regions, batch.region_mask)
        return Output(self.classifier(hidden), hidden, question=question, vision=vision)

    @property
    def provides(self) -> dict[str, int]:
        """The first position before any cross-modality layer, and the mean of the embedded regions."""
        return {"question": self.hidden_size, "vision": self.hidden_size}

    def matrices(self) -> dict[str, list[str]]:
        """168 matrices of LXMERT-base (Eqs. 11–12); biases, norms, position and type embeddings are not pruned."""
        layers = self.config.num_hidden_layers
        names = {
            "language": ["embeddings.word_embeddings"]
            + [f"encoder.layer.{i}.{part}" for i in range(layers["language"]) for part in BERT_LAYER],
            "vision": ["encoder.visn_fc.visn_fc", "encoder.visn_fc.box_fc"]
            + [f"encoder.r_layers.{i}.{part}" for i in range(layers["vision"]) for part in BERT_LAYER],
            "cross": [f"encoder.x_layers.{i}.{part}" for i in range(layers["cross_encoder"]) for part in CROSS_BLOCK],
            "pooler": ["pooler.dense"],
        }
        return {modality: [f"lxmert.{name}.weight" for name in group] for modality, group in names.items()}

    def structures(self) -> list[Structure]:
        layers, encoder = self.config.num_hidden_layers, "lxmert.encoder"
        number, width = self.config.num_attention_heads, self.config.intermediate_size
        found = [s for i in range(layers["language"]) for s in bert_layer(f"{encoder}.layer.{i}", self.config)]
        found += [s for i in range(layers["vision"]) for s in bert_layer(f"{encoder}.r_layers.{i}", self.config)]
        for i in range(layers["cross_encoder"]):
            layer = f"{encoder}.x_layers.{i}"
            found.append(heads(f"{layer}.visual_attention", number, "att"))
            found += [heads(f"{layer}.{stream}_self_att", number) for stream in ("lang", "visn")]
            for stream in ("lang", "visn"):
                found.append(neurons(f"{layer}.{stream}_inter.dense", f"{layer}.{stream}_output.dense", width))
        return found

    def dead(self) -> list[str]:
        return [name for name in self.matrices()["cross"] if name.startswith(tuple(self.unused()))]

    def unused(self) -> list[str]:
        last = self.config.num_hidden_layers["cross_encoder"] - 1
        return [f"lxmert.encoder.x_layers.{last}.{part}." for part in DEAD]

    def skip_unused(self) -> None:
        """The last cross-modality layer computes only the first position of the language stream."""
        layers = self.lxmert.encoder.x_layers
        layers[-1] = FirstPosition(layers[-1])

    def layers(self) -> Iterable[nn.Module]:
        encoder = self.lxmert.encoder
        return chain(encoder.layer, encoder.r_layers, encoder.x_layers)

    @property
    def encoder(self) -> LxmertModel:
        return self.lxmert

    def load_pretrained(self) -> LoadReport | None:
        if self.pretrained is None:
            return None
        self.lxmert, report = load_from_hub(LxmertModel, self.pretrained, self.config)
        self._freeze_dead_branch()
        self.warm_start(self.pretrained)
        return report

    def from_scratch(self) -> dict[str, Any]:
        return {"pretrained": None, "config": sizes_of(self.config)}

    @property
    def description(self) -> dict[str, object]:
        fields = ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "visual_feat_dim")
        shape = {field: getattr(self.config, field) for field in fields}
        return {"name": self.name, **shape, "layers": dict(self.config.num_hidden_layers), "answers": self.num_answers}

    def _freeze_dead_branch(self) -> None:
        """Freeze parameters that get no gradient: DDP refuses trainable parameters that are not used."""
        last = self.lxmert.encoder.x_layers[-1]
        for part in DEAD:
            getattr(last, part).requires_grad_(False)


class FirstPosition(nn.Module):
    """LXMERT's last cross-modality layer, reduced to what the pooler reads: the first position of the language stream.

    All its positions attend to the regions; then the first attends to all of them. Regions are returned unchanged.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.visual_attention, self.lang_self_att = layer.visual_attention, layer.lang_self_att
        self.lang_inter, self.lang_output = layer.lang_inter, layer.lang_output

    def forward(
        self,
        language: Tensor,
        language_mask: Tensor,
        regions: Tensor,
        region_mask: Tensor | None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """The first position (B, 1, H) and the regions (B, R, H).

        Args:
            language: (B, T, H).
            language_mask, region_mask: added to the attention scores, (B, 1, 1, T) and (B, 1, 1, R).
            regions: (B, R, H).
            output_attentions: passed by transformers; not used.
        """
        (language,) = self.visual_attention(language, regions, ctx_att_mask=region_mask)
        first = language[:, :1]
        (context,) = self.lang_self_att.self(first, language, language_mask)
        first = self.lang_self_att.output(context, first)
        return self.lang_output(self.lang_inter(first), first), regions
