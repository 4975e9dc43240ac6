"""VisualBERT (Li et al., 2019) with the authors' answer head."""

from collections.abc import Iterable
from typing import Any, Optional

from torch import Tensor, nn
from transformers import VisualBertConfig, VisualBertModel

from cdvqa.backbones.backbone import LoadReport
from cdvqa.backbones.head import Classification, answer_head
from cdvqa.backbones.huggingface import BERT_LAYER, architecture, bert_layer, head_dropout, load_from_hub, sizes_of
from cdvqa.backbones.padding import masked_mean, trim_padding
from cdvqa.data.batch import VQABatch
from cdvqa.objectives import Output
from cdvqa.sparsity.patterns import Structure


class VisualBert(Classification):
    """VisualBERT through Hugging Face transformers: one encoder over word pieces and regions; boxes are not used.

    Args:
        num_answers: size of the answer vocabulary; linked to data.num_answers.
        pretrained: hub name, or a local folder in Hugging Face's format; null starts from random weights. A folder that
            also holds `answer_head.safetensors` warm-starts the answers it knows; published VisualBERT has none, so its
            head starts fresh, as the authors' does.
        config: VisualBERT's configuration as a dictionary, for a model from scratch; what it leaves out, or null, is
            that of the published model, whose regions are 2048 wide.
    """

    name = "visualbert"

    def __init__(
        self,
        num_answers: int,
        pretrained: Optional[str] = "uclanlp/visualbert-vqa-coco-pre",
        config: Optional[dict[str, Any]] = None,
    ) -> None:
        super().__init__()
        self.pretrained = pretrained
        self.num_answers = num_answers
        self.config = architecture(VisualBertConfig, pretrained, config, visual_embedding_dim=2048)
        self.hidden_size = self.config.hidden_size
        self.visual_bert = VisualBertModel(self.config)
        self.dropout = nn.Dropout(self.config.hidden_dropout_prob)
        self.classifier = answer_head(self.hidden_size, num_answers, head_dropout(self.config))

    def forward(self, batch: VQABatch) -> Output:
        """Pooled output of the first word piece, dropout, then the answer head; `hidden` is before the dropout."""
        ids, mask = trim_padding(batch.input_ids, batch.attention_mask)
        # By default the model gives regions token type 1 and position 0, and attends to all positions without a mask.
        outputs = self.visual_bert(
            input_ids=ids,
            attention_mask=mask,
            visual_embeds=batch.region_features,
            visual_attention_mask=batch.region_mask,
            output_hidden_states=bool(self.asked),
        )
        hidden, question, vision = outputs.pooler_output, None, None
        if self.asked:
            assert ids is not None
            text, regions = outputs.hidden_states[0].tensor_split([ids.shape[1]], dim=1)
            question = masked_mean(self.question_features(text), mask)
            vision = masked_mean(regions.detach(), batch.region_mask)
        return Output(self.classifier(self.dropout(hidden)), hidden, question=question, vision=vision)

    @property
    def provides(self) -> dict[str, int]:
        """Means of the embedded word pieces and regions: every layer after the embeddings mixes the two."""
        return {"question": self.hidden_size, "vision": self.hidden_size}

    def matrices(self) -> dict[str, list[str]]:
        """74 matrices of VisualBERT-base (Eq. 13); biases, norms and the projection of the regions are not pruned.

        Every layer mixes language and vision, so there is no modality `vision`, and no budget over three modalities.
        """
        names = {
            "language": ["embeddings.word_embeddings"],
            "cross": [f"encoder.layer.{i}.{part}" for i in range(self.config.num_hidden_layers) for part in BERT_LAYER],
            "pooler": ["pooler.dense"],
        }
        return {modality: [f"visual_bert.{name}.weight" for name in group] for modality, group in names.items()}

    def structures(self) -> list[Structure]:
        layers = range(self.config.num_hidden_layers)
        return [s for i in layers for s in bert_layer(f"visual_bert.encoder.layer.{i}", self.config)]

    def skip_unused(self) -> None:
        """The last layer computes only the first position."""
        layers = self.visual_bert.encoder.layer
        layers[-1] = FirstPosition(layers[-1])

    def layers(self) -> Iterable[nn.Module]:
        return self.visual_bert.encoder.layer

    @property
    def encoder(self) -> VisualBertModel:
        return self.visual_bert

    def load_pretrained(self) -> LoadReport | None:
        if self.pretrained is None:
            return None
        self.visual_bert, report = load_from_hub(VisualBertModel, self.pretrained, self.config)
        self.warm_start(self.pretrained)
        return report

    def from_scratch(self) -> dict[str, Any]:
        return {"pretrained": None, "config": sizes_of(self.config)}

    @property
    def description(self) -> dict[str, object]:
        fields = ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads")
        return {
            "name": self.name,
            **{field: getattr(self.config, field) for field in fields},
            "visual_feat_dim": self.config.visual_embedding_dim,
            "layers": self.config.num_hidden_layers,
            "answers": self.num_answers,
        }


class FirstPosition(nn.Module):
    """VisualBERT's last layer, reduced to the position that the pooler reads; it attends to all positions."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, output_attentions: bool = False
    ) -> tuple[Tensor]:
        """The first position, (B, 1, H).

        Args:
            hidden_states: (B, N, H).
            attention_mask: added to the attention scores, (B, 1, 1, N).
            output_attentions: passed by transformers; not used.
        """
        attention, first = self.layer.attention.self, hidden_states[:, :1]

        def heads(states: Tensor) -> Tensor:
            split: Tensor = states.unflatten(2, (-1, attention.attention_head_size)).transpose(1, 2)
            return split

        query, key, value = attention.query(first), attention.key(hidden_states), attention.value(hidden_states)
        context = nn.functional.scaled_dot_product_attention(heads(query), heads(key), heads(value), attention_mask)
        first = self.layer.attention.output(context.transpose(1, 2).flatten(2), first)
        return (self.layer.feed_forward_chunk(first),)
