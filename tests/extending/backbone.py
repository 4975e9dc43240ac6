"""A backbone: the mean of the word embeddings times the mean of the regions."""

import torch
from torch import nn

from cdvqa.backbones import Output
from cdvqa.backbones.head import Classification, answer_head
from cdvqa.backbones.padding import masked_mean


class BagOfWords(Classification):
    """Trained from scratch; its two matrices can be masked."""

    name = "bag"

    def __init__(self, num_answers: int, vocab_size: int, visual_feat_dim: int, hidden_size: int = 64) -> None:
        super().__init__()
        self.num_answers, self.hidden_size = num_answers, hidden_size
        self.sizes = {"vocab_size": vocab_size, "visual_feat_dim": visual_feat_dim, "hidden_size": hidden_size}
        self.words = nn.EmbeddingBag(vocab_size, hidden_size, padding_idx=0)
        self.regions = nn.Linear(visual_feat_dim, hidden_size)
        self.classifier = answer_head(hidden_size, num_answers)

    @property
    def provides(self) -> dict[str, int]:
        return {"question": self.hidden_size}

    def forward(self, batch) -> Output:
        question = self.words(batch.input_ids)
        vision = self.regions(masked_mean(batch.region_features, batch.region_mask))
        hidden = torch.tanh(question * vision)
        return Output(self.classifier(hidden), hidden, question=question.detach())

    def matrices(self) -> dict[str, list[str]]:
        return {"language": ["words.weight"], "vision": ["regions.weight"]}

    @property
    def description(self) -> dict[str, object]:
        return {"name": self.name, **self.sizes, "answers": self.num_answers}
