"""The protocol of a backbone: what a stage needs from a vision-language model."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from cdvqa.data.batch import VQABatch
from cdvqa.data.visual.source import ImageFormat
from cdvqa.objectives import Output
from cdvqa.sparsity.patterns import Structure


@dataclass(frozen=True)
class LoadReport:
    """How many parameters a checkpoint filled, and which names did not fit.

    Attributes:
        source: where the weights came from.
        matched: number of parameters (elements) that the checkpoint filled.
        total: number of parameters of the pre-trained part of the model.
        missing: names the model has and the checkpoint lacks.
        unexpected: names the checkpoint has and the model lacks.
    """

    source: str
    matched: int
    total: int
    missing: list[str]
    unexpected: list[str]

    @property
    def share(self) -> float:
        """Matched parameters as a share of all."""
        return self.matched / self.total

    def __str__(self) -> str:
        return (
            f"{self.source}: {self.share:.1%} of {self.total:,} parameters matched, "
            f"{len(self.missing)} names missing, {len(self.unexpected)} unexpected"
        )


class Backbone(nn.Module, ABC):
    """A vision-language model with an answer head.

    A subclass sets `name`, `hidden_size`, `num_answers` and `classifier`, and defines `forward`, `answer` and
    `description`; with `matrices` it can be pruned. One that scores the strings of the vocabulary derives from
    `cdvqa.backbones.head.Classification`, which defines `answer`. Its class is found by name (`cdvqa.backbones`) or by
    `package.module.Class`; `num_answers` comes from the data. A complete example, `--model.backbone bag.BagOfWords`:

        class BagOfWords(Classification):
            name = "bag"

            def __init__(self, num_answers: int, vocab_size: int, visual_feat_dim: int, hidden_size: int = 64) -> None:
                super().__init__()
                self.num_answers, self.hidden_size = num_answers, hidden_size
                self.words = nn.EmbeddingBag(vocab_size, hidden_size, padding_idx=0)
                self.regions = nn.Linear(visual_feat_dim, hidden_size)
                self.classifier = answer_head(hidden_size, num_answers)

            def forward(self, batch):
                regions = masked_mean(batch.region_features, batch.region_mask)
                hidden = torch.tanh(self.words(batch.input_ids) * self.regions(regions))
                return Output(self.classifier(hidden), hidden)

            def matrices(self):
                return {"language": ["words.weight"], "vision": ["regions.weight"]}

            @property
            def description(self):
                return {"name": self.name, "hidden_size": self.hidden_size, "answers": self.num_answers}

    Attributes:
        name: its name in run folders.
        hidden_size: H, width of the pooled output.
        num_answers: A, number of answers.
        classifier: the answer head; stage 2 trains it beside the masks, and it is never pruned.
        provides: widths of the optional outputs that it can give: Hq of `question`, Hv of `vision`.
        asked: which of these `forward` fills in; the stage sets it to what the objective needs.
        trains_question: whether gradients flow back through `question`; the stage sets it with `asked`.
        generates: whether it generates answers word by word, and is trained on `batch.sequences`.
        image_format: format of the images that it takes; None where it takes region features.
        counting_note: how its parameter counts differ from published ones; `cdvqa info` prints it.
        answers: the vocabulary's strings in index order; a stage sets it before weights are loaded.
        tokenizer: of the questions; set together with `answers`.
    """

    name: str
    hidden_size: int
    num_answers: int
    classifier: nn.Module
    generates: ClassVar[bool] = False
    image_format: ImageFormat | None = None
    counting_note: ClassVar[str] = ""
    answers: list[str] | None = None
    tokenizer: Tokenizer | None = None
    asked: frozenset[str] = frozenset()
    trains_question: bool = False

    @property
    def provides(self) -> dict[str, int]:
        return {}

    def question_features(self, features: Tensor) -> Tensor:
        """The features (B, …, Hq) of which `question` is computed, detached unless the stage trains through them."""
        return features if self.trains_question else features.detach()

    @abstractmethod
    def forward(self, batch: VQABatch) -> Output:
        """Score every answer for every question of the batch."""

    @abstractmethod
    def answer(self, batch: VQABatch) -> list[str]:
        """The answer string of each question."""

    def matrices(self) -> dict[str, list[str]]:
        """Names of the weight matrices that can be masked, by modality, in the order that decides global ties.

        A backbone without any, the default, can only be trained in stage 1.
        """
        return {}

    def structures(self) -> list[Structure]:
        """Its attention heads and feed-forward neurons, for the pattern `structured`; by default none."""
        return []

    def parameter_groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """The optimiser's groups of all parameters that are trained."""
        return [{"params": [p for p in self.parameters() if p.requires_grad], "lr": lr, "weight_decay": weight_decay}]

    def authors_protocol(self, stage: int) -> dict[str, Any]:
        """Fields of the preset `authors` whose values for this backbone differ from those for LXMERT."""
        return {}

    def authors_also_train(self) -> list[str]:
        """Names of parameters that the authors' stage 2 trains beside the masks and the classifier."""
        return []

    def counts(self) -> dict[str, int]:
        """Number of weights that can be masked, by modality; call it before masks are attached."""
        return {m: sum(self.get_parameter(name).numel() for name in names) for m, names in self.matrices().items()}

    def dead(self) -> list[str]:
        """Those of `matrices` that do not affect the answer, by default none; they are frozen and get no gradient."""
        return []

    @property
    def encoder(self) -> PreTrainedModel | None:
        """The model of transformers whose pooled output the classifier reads; None where there is none."""
        return None

    def unused(self) -> list[str]:
        """Prefixes of the names of parameters that no answer needs, by default none; exported networks lack them."""
        return []

    def skip_unused(self) -> None:
        """Change it in place to compute only what affects the answer; by default nothing changes.

        The answers stay the same. It cannot be trained afterwards, nor changed back.
        """

    def layers(self) -> Iterable[nn.Module]:
        """The layers whose activations take most of a training step's memory, by default none."""
        return []

    def checkpoint_gradients(self) -> None:
        """Store only the input of each of `layers`; the backward pass computes the rest again, dropout included."""
        for layer in self.layers():
            layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)

    def load_pretrained(self) -> LoadReport | None:
        """Load the pre-trained weights; None where the model starts from scratch, the default.

        Raises:
            InputError: weights absent, unreadable, of another shape, or matching less than 95 % of the parameters.
        """
        return None

    def from_scratch(self) -> dict[str, Any]:
        """Constructor arguments to replace to build the same sizes without pre-trained files; by default none."""
        return {}

    @property
    @abstractmethod
    def description(self) -> dict[str, object]:
        """Name and sizes as JSON values; networks with equal descriptions can exchange weights."""
