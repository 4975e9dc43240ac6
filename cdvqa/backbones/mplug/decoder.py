"""What mPLUG says: word pieces one after another, each looking at image and question."""

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import EncoderDecoderCache
from transformers.models.bert.modeling_bert import (
    BertEmbeddings,
    BertLayer,
    BertPredictionHeadTransform,
    BertPreTrainedModel,
)

from cdvqa.backbones.mplug.config import MplugConfig


class Decoder(BertPreTrainedModel):
    """BERT with causal self-attention, and cross-attention over image and question."""

    def __init__(self, config: MplugConfig) -> None:
        bert = config.bert(cross_attention=True)
        super().__init__(bert)
        self.embeddings = BertEmbeddings(bert)
        self.layer = nn.ModuleList(BertLayer(bert, layer_idx=i) for i in range(config.text_decode_layers))
        self.post_init()

    def forward(
        self,
        ids: Tensor,
        states: Tensor,
        states_mask: Tensor,
        positions: Tensor,
        mask: Tensor,
        cache: EncoderDecoderCache | None = None,
    ) -> Tensor:
        """Hidden states of word pieces, (B, L, H).

        Args:
            ids: word pieces, (B, L).
            states: image and question, (B, S, H).
            states_mask: (B, S) bool, True on what may be looked at.
            positions: of the pieces in their answers, (1, L).
            mask: (B, L, L') bool, which of the pieces (those in `cache` first) each one looks at.
            cache: keys and values of earlier pieces and of `states`; those of the pieces are added to it.
        """
        hidden = self.embeddings(ids, position_ids=positions)
        for layer in self.layer:
            hidden = layer(
                hidden,
                mask[:, None],
                states,
                encoder_attention_mask=states_mask[:, None, None],
                past_key_values=cache,
            )
        return hidden  # type: ignore[no-any-return]

    def side_by_side(self, ids: Tensor, states: Tensor, states_mask: Tensor) -> Tensor:
        """Hidden states (B, M, L, H) of M answers to each question, `ids` (B, M, L).

        The answers lie in one row, each word piece looking at those before it in its own answer. So keys and values of
        image and question, which are most of the work, are formed once for all answers. Padding needs no mask: nothing
        that counts comes after it.
        """
        _, answers, length = ids.shape
        positions = torch.arange(length, device=ids.device).repeat(answers)[None]
        answer = torch.arange(answers, device=ids.device).repeat_interleave(length)
        mask = (answer[:, None] == answer) & (positions <= positions.T)
        hidden: Tensor = self(ids.flatten(1), states, states_mask, positions, mask.expand(len(ids), -1, -1))
        return hidden.unflatten(1, (answers, length))


class LanguageModelHead(nn.Module):
    """Scores of the next word piece; its matrix is the decoder's word embedding, which belongs to the decoder."""

    def __init__(self, config: MplugConfig) -> None:
        super().__init__()
        self.transform = BertPredictionHeadTransform(config.bert(cross_attention=True))
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        nn.init.normal_(self.transform.dense.weight, std=config.initializer_range)
        nn.init.zeros_(self.transform.dense.bias)

    def forward(self, hidden: Tensor, words: Tensor) -> Tensor:
        """(…, H) and the word embedding (V, H) → (…, V)."""
        return functional.linear(self.transform(hidden), words, self.bias)
