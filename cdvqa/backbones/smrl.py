"""S-MRL (Cadene et al., 2019, "RUBi"; simplified from MuRel): a recurrent baseline with a bilinear fusion."""

from typing import Optional

import torch
from torch import Tensor, nn

from cdvqa.backbones.block import BlockFusion
from cdvqa.backbones.glove import WordsFromGlove
from cdvqa.backbones.padding import masked_mean, trim_padding
from cdvqa.data.batch import VQABatch
from cdvqa.objectives import Output

GLIMPSES = 2


class Smrl(WordsFromGlove):
    """S-MRL: a GRU reads the question, BLOCK fuses it with every region, and max pooling joins the regions.

    The default sizes are the published ones; with BERT's 30,522 word pieces and 2,274 answers it has 57,821,052
    parameters, the "~60M" of the debiasing paper. The published model starts from skip-thoughts' word vectors and GRU;
    this one is trained from scratch, or starts its word embeddings from GloVe. Dropout removes a quarter of the word
    embedding's units, the same ones at every word; skip-thoughts' GRU also has dropout on its states. It is a baseline
    for compressed models and cannot be compressed itself.

    Source: `SMRLNet` in yuleiniu/cfvqa.

    Args:
        num_answers: size of the answer vocabulary; linked to data.num_answers.
        vocab_size: number of word pieces of the run's tokenizer.
        visual_feat_dim: width of the region features.
        embedding_size: width of the word embedding.
        question_size: width of the GRU's state; the question vector is two of them, concatenated.
        attention_size: width of the hidden layer that scores the words.
        fusion_size: width in which question and region are multiplied, in `chunks` parts, as sums of `rank` products.
        chunks: see `fusion_size`.
        rank: see `fusion_size`.
        hidden_size: width of a fused region and of the joint representation.
        classifier_size: width of the classifier's two hidden layers.
        glove: GloVe text file with `embedding_size` numbers per word, such as `glove.6B.300d.txt` with 300: word pieces
            that are words of the file start with its vector; null starts all of them at random.
    """

    name = "smrl"

    def __init__(
        self,
        num_answers: int,
        vocab_size: int = 30522,
        visual_feat_dim: int = 2048,
        embedding_size: int = 620,
        question_size: int = 2400,
        attention_size: int = 512,
        fusion_size: int = 1000,
        chunks: int = 20,
        rank: int = 15,
        hidden_size: int = 2048,
        classifier_size: int = 1024,
        glove: Optional[str] = None,
    ) -> None:
        super().__init__()
        self.sizes = {
            "vocab_size": vocab_size,
            "visual_feat_dim": visual_feat_dim,
            "embedding_size": embedding_size,
            "question_size": question_size,
            "attention_size": attention_size,
            "fusion_size": fusion_size,
            "chunks": chunks,
            "rank": rank,
            "hidden_size": hidden_size,
            "classifier_size": classifier_size,
        }
        self.num_answers = num_answers
        self.hidden_size = hidden_size
        self.glove = glove
        self.embedding = nn.Embedding(vocab_size, embedding_size, padding_idx=0)
        self.dropout = nn.Dropout1d(0.25)
        self.gru = nn.GRU(embedding_size, question_size, batch_first=True)
        self.attention = WordAttention(question_size, attention_size)
        self.fusion = BlockFusion(GLIMPSES * question_size, visual_feat_dim, hidden_size, fusion_size, chunks, rank)
        first, second = nn.Linear(hidden_size, classifier_size), nn.Linear(classifier_size, classifier_size)
        last = nn.Linear(classifier_size, num_answers)
        self.classifier = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), last)

    def forward(self, batch: VQABatch) -> Output:
        """`hidden` (B, H) is the maximum over the fused regions, unit by unit; the classifier follows."""
        ids, mask = trim_padding(batch.input_ids, batch.attention_mask)
        assert ids is not None and batch.region_features is not None
        question = self.read(ids, mask)
        hidden = self.pool(question, batch.region_features, batch.region_mask)
        vision = masked_mean(batch.region_features, batch.region_mask) if "vision" in self.asked else None
        question = self.question_features(question)
        return Output(self.classifier(hidden), hidden, question=question, vision=vision)

    def states(self, ids: Tensor) -> Tensor:
        """The GRU's state at each word piece, (B, T, question_size)."""
        words = self.dropout(self.embedding(ids).transpose(1, 2)).transpose(1, 2)
        states: Tensor = self.gru(words)[0]
        return states

    def read(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        """The two glimpses at each question, concatenated, (B, 2 · question_size); without a mask all words count."""
        glimpses: Tensor = self.attention(self.states(ids), mask)
        return glimpses

    def pool(self, question: Tensor, regions: Tensor, mask: Tensor | None) -> Tensor:
        """The maximum (B, H) over the regions that the mask (B, R) keeps; over all where it keeps none."""
        fused: Tensor = self.fusion(question, regions)
        if mask is not None:
            absent = ~mask.bool() & mask.bool().any(dim=1, keepdim=True)
            fused = fused.masked_fill(absent[..., None], torch.finfo(fused.dtype).min)
        return fused.amax(dim=1)

    @property
    def provides(self) -> dict[str, int]:
        """The question vector, and the mean of the region features, which S-MRL does not embed."""
        return {"question": GLIMPSES * self.sizes["question_size"], "vision": self.sizes["visual_feat_dim"]}

    def word_tables(self) -> list[Tensor]:
        return [self.embedding.weight]

    @property
    def description(self) -> dict[str, object]:
        return {"name": self.name, **self.sizes, "answers": self.num_answers}


class WordAttention(nn.Module):
    """Self-attention of a question over its words, in `GLIMPSES` glimpses, each with its own weights."""

    def __init__(self, state_size: int, attention_size: int) -> None:
        super().__init__()
        self.score = nn.Sequential(
            nn.Linear(state_size, attention_size), nn.ReLU(), nn.Linear(attention_size, GLIMPSES)
        )

    def forward(self, states: Tensor, mask: Tensor | None, maximum: Tensor | None = None) -> Tensor:
        """The glimpses, concatenated, (B, GLIMPSES · H), of states (B, T, H); other arguments as in `word_weights`."""
        weights = word_weights(self.score(states), mask, maximum).to(states.dtype)
        return (weights.transpose(1, 2) @ states).flatten(1)


def word_weights(scores: Tensor, mask: Tensor | None, maximum: Tensor | None = None) -> Tensor:
    """Softmax over the words, (B, T, G), with the authors' 1e-5 in the denominator.

    The authors subtract the maximum over the whole batch, so that a question's weights depend on the other questions.
    Here the default is the maximum over the question's own words.

    Args:
        scores: (B, T, G), of each word for each of G glimpses.
        mask: (B, T), 0 on padding; None keeps all.
        maximum: what to subtract, broadcast to `scores`; None: the maximum over the words, (B, 1, G).
    """
    if mask is not None:
        scores = scores.masked_fill(~mask.bool()[..., None], torch.finfo(scores.dtype).min)
    if maximum is None:
        maximum = scores.amax(dim=1, keepdim=True)
    weights = (scores - maximum).exp()
    return weights / (weights.sum(dim=1, keepdim=True) + 1e-5)
