"""mPLUG's decoder and its head: scores of the next word piece of an answer, given image and question."""

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
        BertPreTrainedModel.post_init(self)

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
            states_mask: (B, S) bool, True on what is attended to.
            positions: of the pieces in their answers, (1, L).
            mask: (B, L, L') bool, which of the L' pieces (those in `cache` first) each piece attends to.
            cache: keys and values of earlier pieces and of `states`; those of the L pieces are added to it.
        """
        hidden: Tensor = self.embeddings(ids, position_ids=positions)
        for layer in self.layer:
            hidden = layer(
                hidden,
                mask[:, None],
                states,
                encoder_attention_mask=states_mask[:, None, None],
                past_key_values=cache,
            )
        return hidden

    def side_by_side(self, ids: Tensor, states: Tensor, states_mask: Tensor) -> Tensor:
        """Hidden states (B, M, L, H) of M answers to each question, `ids` (B, M, L).

        The answers of a question form one row, in which a word piece attends to itself and earlier pieces of its own
        answer. So keys and values of image and question, most of the work, are computed once for all answers. Padding
        needs no mask: it comes last, so no word piece attends to it.
        """
        _, answers, length = ids.shape
        positions = torch.arange(length, device=ids.device).repeat(answers)[None]
        answer = torch.arange(answers, device=ids.device).repeat_interleave(length)
        mask = (answer[:, None] == answer) & (positions <= positions.T)
        hidden: Tensor = self(ids.flatten(1), states, states_mask, positions, mask.expand(len(ids), -1, -1))
        by_answer: Tensor = hidden.unflatten(1, (answers, length))
        return by_answer


class LanguageModelHead(nn.Module):
    """Scores of the next word piece; its matrix is the decoder's word embedding, which is passed to `forward`."""

    def __init__(self, config: MplugConfig) -> None:
        super().__init__()
        self.transform = BertPredictionHeadTransform(config.bert(cross_attention=True))
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        nn.init.normal_(self.transform.dense.weight, std=config.initializer_range)
        nn.init.zeros_(self.transform.dense.bias)

    def forward(self, hidden: Tensor, words: Tensor) -> Tensor:
        """(…, H) and the word embedding (V, H) → (…, V)."""
        return functional.linear(self.transform(hidden), words, self.bias)
