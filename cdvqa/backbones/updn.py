"""Bottom-up and top-down attention, UpDn (Anderson et al., 2018): the recurrent baseline."""

from typing import Optional, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from cdvqa.backbones.glove import WordsFromGlove
from cdvqa.backbones.head import answer_head
from cdvqa.backbones.padding import masked_mean, trim_padding
from cdvqa.data.batch import VQABatch
from cdvqa.objectives import Output


class UpDn(WordsFromGlove):
    """UpDn as it is widely implemented: weight-normed layers, ReLU, fusion by product, the authors' kind of head.

    Of its published variants this is the one with two word embeddings side by side, both trained here: with BERT's
    30,522 word pieces and 2,274 answers it has 36,363,482 parameters (34.7 · 2²⁰), nearest to the "about 35 M" of the
    debiasing paper, where one embedding would make 26,285,282. Published code drops out no words, and so does this. It
    is compared with compressed models and is not compressed itself.

    Args:
        num_answers: size of the answer vocabulary; linked to data.num_answers.
        vocab_size: number of word pieces of the run's tokenizer.
        visual_feat_dim: width of the region features.
        hidden_size: width of the question's, the attention's and the joint representation.
        embedding_size: width of each of the two word embeddings.
        glove: GloVe text file, such as `glove.6B.300d.txt`, of `embedding_size` numbers a word: word pieces that are
            words of the file start with its vector in both embeddings; null starts all of them at random.
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
        """Product of the question and of the regions that it attends to, (B, H), then the answer head."""
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
        states, _ = self.gru(torch.cat([embedding(ids) for embedding in self.embeddings], dim=2))
        if mask is None:
            return cast(Tensor, states[:, -1])
        last = (mask.sum(dim=1) - 1).clamp(min=0)
        return cast(Tensor, states[torch.arange(len(ids), device=ids.device), last])

    @property
    def provides(self) -> dict[str, int]:
        """The question vector, and the mean of the regions, which UpDn attends to as they are."""
        return {"question": self.hidden_size, "vision": self.visual_feat_dim}

    def word_tables(self) -> list[Tensor]:
        return list(self.embeddings.parameters())

    @property
    def description(self) -> dict[str, object]:
        fields = ("name", "vocab_size", "embedding_size", "hidden_size", "visual_feat_dim")
        return {**{field: getattr(self, field) for field in fields}, "answers": self.num_answers}


class TopDownAttention(nn.Module):
    """Attention of the question over the regions: a weight for each from the product of the two, softmax over them."""

    def __init__(self, visual_size: int, hidden_size: int) -> None:
        super().__init__()
        self.vision = gate(visual_size, hidden_size)
        self.question = gate(hidden_size, hidden_size)
        self.dropout = nn.Dropout(0.2)
        self.score = normed_linear(hidden_size, 1)

    def forward(self, question: Tensor, regions: Tensor, mask: Tensor | None) -> Tensor:
        """The attended regions, (B, F), of regions (B, R, F) for questions (B, H); mask (B, R) is True on regions."""
        joint = self.dropout(self.vision(regions) * self.question(question)[:, None])
        scores = self.score(joint).squeeze(2)
        if mask is not None:
            scores = scores.masked_fill(~mask.bool(), torch.finfo(scores.dtype).min)
        weights = scores.softmax(dim=1).to(regions.dtype)
        return cast(Tensor, (weights[:, None] @ regions).squeeze(1))


def gate(width: int, out: int) -> nn.Sequential:
    """Weight-norm Linear and ReLU, where Anderson et al. have a gated tanh."""
    return nn.Sequential(normed_linear(width, out), nn.ReLU())


def normed_linear(width: int, out: int) -> nn.Linear:
    """Linear with one scalar norm for its whole matrix, as in the answer head."""
    return cast(nn.Linear, weight_norm(nn.Linear(width, out), dim=None))  # type: ignore[arg-type]
