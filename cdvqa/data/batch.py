"""The batch that data loaders make and every part of the model reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")


def map_tensors(data: T, change: Callable[[Tensor], Tensor]) -> T:
    """The same dataclass with each of its tensors changed, also in dataclasses and dictionaries inside it."""
    changed: dict[str, Any] = {}
    for field in fields(data):
        value = getattr(data, field.name)
        if isinstance(value, Tensor):
            changed[field.name] = change(value)
        elif isinstance(value, dict):
            changed[field.name] = {key: map_tensors(part, change) for key, part in value.items()}
        elif is_dataclass(value) and not isinstance(value, type):
            changed[field.name] = map_tensors(value, change)
    return replace(data, **changed)


@dataclass
class AnswerSequences:
    """The distinct human answers of a batch's questions as N sequences of word pieces.

    Attributes:
        ids: (N, L) int64, [CLS] answer [SEP] [SEP], padded with 0.
        mask: (N, L) int64, 1 on word pieces.
        question: (N,) int64, position of the answer's question in the batch; ascending.
        weight: (N,) float32, share of the question's human answers.
        prior: (N,) float32, how often this answer is given to questions of the type; 0 for one never seen in training.
    """

    ids: Tensor
    mask: Tensor
    question: Tensor
    weight: Tensor
    prior: Tensor


@dataclass
class Words:
    """Word pieces of B questions: `input_ids` and `attention_mask` (B, T) as in `VQABatch`."""

    input_ids: Tensor
    attention_mask: Tensor | None


@dataclass
class VQABatch:
    """B questions with their images and targets; what a backbone does not need stays None.

    Attributes:
        question_id: (B,) int64.
        input_ids: (B, T) int64 word pieces.
        attention_mask: (B, T) int64, 1 on word pieces; None means that all T positions are attended to.
        region_features: (B, R, F) as stored, fp16 or fp32; float32 once `widened`.
        boxes: (B, R, 4) float32, x1/w, y1/h, x2/w, y2/h.
        region_mask: (B, R) bool, True on regions; None means that all R are regions.
        image: (B, 3, H, W) float32 normalised pixels, for backbones that read the image itself.
        soft_target: (B, A) float32.
        label: (B,) int64, the answer of the largest soft score, −1 where none is in the vocabulary.
        prior: (B, A) float32, the answer prior of the question's type.
        question_type: (B,) int64, index into the data module's `question_types`.
        answer_type: (B,) int64, index into the data module's `answer_types`.
        answers: the raw human answers of each question, in evaluation only.
        sequences: the answers that a generative backbone is trained to generate.
        counts: (B, A) float32, how often each answer occurs among the normalised human answers to the training
            questions of the question's type.
        views: other forms of the questions, by the view's name.
    """

    question_id: Tensor
    input_ids: Tensor | None = None
    attention_mask: Tensor | None = None
    region_features: Tensor | None = None
    boxes: Tensor | None = None
    region_mask: Tensor | None = None
    image: Tensor | None = None
    soft_target: Tensor | None = None
    label: Tensor | None = None
    prior: Tensor | None = None
    question_type: Tensor | None = None
    answer_type: Tensor | None = None
    answers: list[list[str]] | None = None
    sequences: AnswerSequences | None = None
    counts: Tensor | None = None
    views: dict[str, Words] | None = None

    def __len__(self) -> int:
        return len(self.question_id)

    def to(self, device: torch.device | str) -> VQABatch:
        """The batch on another device; the host does not wait for a copy to a GPU."""
        non_blocking = torch.device(device).type == "cuda"
        return map_tensors(self, lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> VQABatch:
        """The batch in page-locked memory (the loader calls this)."""
        return map_tensors(self, Tensor.pin_memory)

    def widened(self) -> VQABatch:
        """The batch with `region_features` in float32; half precision is widened on the device, after the copy."""
        if self.region_features is None or self.region_features.dtype != torch.float16:
            return self
        return replace(self, region_features=self.region_features.float())
