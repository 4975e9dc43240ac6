"""Bottom-up and top-down attention, UpDn (Anderson et al., 2018): the recurrent baseline."""

from typing import Optional

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from cdvqa.backbones.glove import WordsFromGlove
from cdvqa.backbones.head import answer_head
from cdvqa.backbones.padding import masked_mean, trim_padding
from cdvqa.data.batch import VQABatch
from cdvqa.objectives import Output


class UpDn(WordsFromGlove):
    """UpDn as it is widely implemented: weight-normed layers, ReLU, fusion by product, and an `answer_head`.

    Of its published variants this is the one with two word embeddings, concatenated; both are trained here. With BERT's
    30,522 word pieces and 2,274 answers it has 36,363,482 parameters (34.7 · 2²⁰), nearest to the "about 35 M" of the
    debiasing paper; with one embedding it would have 26,285,282. As in published code, words have no dropout. It is a
    baseline for compressed models and cannot be compressed itself.

    Args:
        num_answers: size of the answer vocabulary; linked to data.num_answers.
        vocab_size: number of word pieces of the run's tokenizer.
        visual_feat_dim: width of the region features.
        hidden_size: width of the question's, the attention's and the joint representation.
        embedding_size: width of each of the two word embeddings.
        glove: GloVe text file with `embedding_size` numbers per word, such as `glove.6B.300d.txt` with 300: word pieces
            that are words of the file start with its vector in both embeddings; null starts all of them at random.
    """

    name = "updn"

    def __init__(
        self,
        num_answers: int,
        vocab_size: int = 30522,
        visual_feat_dim: int = 2048,
        hidden_size: int = 1024,
        embedding_size: int = 300,
        glove: Optional[str] = None,
    ) -> None:
        super().__init__()
        self.num_answers = num_answers
        self.vocab_size = vocab_size
        self.visual_feat_dim = visual_feat_dim
        self.hidden_size = hidden_size
        self.embedding_size = embedding_size
        self.glove = glove
        self.embeddings = nn.ModuleList(nn.Embedding(vocab_size, embedding_size, padding_idx=0) for _ in range(2))
        self.gru = nn.GRU(2 * embedding_size, hidden_size, batch_first=True)
        self.attention = TopDownAttention(visual_feat_dim, hidden_size)
        self.question_net = gate(hidden_size, hidden_size)
        self.vision_net = gate(visual_feat_dim, hidden_size)
        self.classifier = answer_head(hidden_size, num_answers)

    def forward(self, batch: VQABatch) -> Output:
        """`hidden` (B, H) is the product of the question and the attended regions; the answer head follows."""
        ids, mask = trim_padding(batch.input_ids, batch.attention_mask)
        assert ids is not None and batch.region_features is not None
        question = self.read(ids, mask)
        attended = self.attention(question, batch.region_features, batch.region_mask)
        hidden = self.question_net(question) * self.vision_net(attended)
        vision = masked_mean(batch.region_features, batch.region_mask) if "vision" in self.asked else None
        question = self.question_features(question)
        return Output(self.classifier(hidden), hidden, question=question, vision=vision)

    def read(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        """The GRU's state at the last word piece of each question (without a mask, at the last position), (B, H)."""
        states: Tensor = self.gru(torch.cat([embedding(ids) for embedding in self.embeddings], dim=2))[0]
        if mask is None:
            return states[:, -1]
        last = (mask.sum(dim=1) - 1).clamp(min=0)
        return states[torch.arange(len(ids), device=ids.device), last]

    @property
    def provides(self) -> dict[str, int]:
        """The question vector, and the mean of the region features, which UpDn does not embed."""
        return {"question": self.hidden_size, "vision": self.visual_feat_dim}

    def word_tables(self) -> list[Tensor]:
        return list(self.embeddings.parameters())

    @property
    def description(self) -> dict[str, object]:
        fields = ("name", "vocab_size", "embedding_size", "hidden_size", "visual_feat_dim")
        return {**{field: getattr(self, field) for field in fields}, "answers": self.num_answers}


class TopDownAttention(nn.Module):
    """Attention of the question over the regions: softmax of a score of the product of question and region."""

    def __init__(self, visual_size: int, hidden_size: int) -> None:
        super().__init__()
        self.vision = gate(visual_size, hidden_size)
        self.question = gate(hidden_size, hidden_size)
        self.dropout = nn.Dropout(0.2)
        self.score = normed_linear(hidden_size, 1)

    def forward(self, question: Tensor, regions: Tensor, mask: Tensor | None) -> Tensor:
        """The weighted mean (B, F) of regions (B, R, F) for questions (B, H); the mask (B, R) is True on regions."""
        joint = self.dropout(self.vision(regions) * self.question(question)[:, None])
        scores = self.score(joint).squeeze(2)
        if mask is not None:
            scores = scores.masked_fill(~mask.bool(), torch.finfo(scores.dtype).min)
        weights: Tensor = scores.softmax(dim=1).to(regions.dtype)
        return (weights[:, None] @ regions).squeeze(1)


def gate(width: int, out: int) -> nn.Sequential:
    """Weight-norm Linear and ReLU, in place of the gated tanh of Anderson et al."""
    return nn.Sequential(normed_linear(width, out), nn.ReLU())


def normed_linear(width: int, out: int) -> nn.Linear:
    """Weight-norm Linear with one scalar norm for its whole matrix, as in the answer head."""
    layer = nn.Linear(width, out)
    weight_norm(layer, dim=None)  # type: ignore[arg-type]
    return layer
