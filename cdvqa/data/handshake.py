"""What a model needs from the data, and what the data module provides: the two meet here, and nowhere else."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from cdvqa.data.dataset import View
from cdvqa.data.datasets.data_set import Distribution
from cdvqa.data.loaders import BatchLoader
from cdvqa.data.visual.source import ImageFormat
from cdvqa.presets import Protocol, TextFormat

OWN_TEXT = "own"  # in place of the digest of the extra text of own questions


@dataclass(frozen=True)
class DataNeeds:
    """What backbone, objective and preset need from the data module, declared before anything is read.

    Attributes:
        protocol: text format, soft score, prior, labels, selection and batch size.
        image_format: of the images that the backbone takes; None where it takes region features.
        sequences: whether training batches hold the human answers as sequences of word pieces.
        counts: whether training batches hold how often each answer occurs in the question's type.
        views: other forms of each question that training batches hold, by name; see `cdvqa.data.dataset.Views`.
        network: for `predict`, `answers` and `text_format` of the network that answers.
    """

    protocol: Protocol
    image_format: ImageFormat | None = None
    sequences: bool = False
    counts: bool = False
    views: Mapping[str, View] = field(default_factory=dict)
    network: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class DataFacts:
    """What the data module has read, for the stage and for the record of a run.

    Attributes:
        root: folder of the question files.
        seed: the run's seed, which orders the training questions.
        answers: the vocabulary's strings in index order.
        tokenizer, tokenizer_digest: of the questions, and SHA-256 of its word pieces.
        text_format: how questions are tokenised.
        splits: names of the splits that are evaluated or answered, in the order of their loaders.
        question_id, image_id: the questions of each split that has been set up, in its order, and their images.
        question_types, answer_types: index spaces of the batches' fields.
        question_types_known: False where cached targets of train name no question types.
        subsets: question ids of the test sets inside each test split, by the set's name.
        distributions: whether each test set is in (`id`) or out of (`ood`) distribution.
        means: names of the means over test sets that the data set states, and their sets.
        visual_path: the feature file, or the folder of images.
        images: folder of images to show to people; it may be absent.
        features: fingerprint of the features or images.
        files: bytes and SHA-256 of the question files read.
        extra_text: SHA-256 of the file of text that is appended to the questions, if there is one; `OWN_TEXT` for own
            questions, whose file is never that of training.
        first_batches: see `VQADataModule.first_batches`.
    """

    root: Path
    seed: int
    answers: Sequence[str]
    tokenizer: Tokenizer
    tokenizer_digest: str
    text_format: TextFormat
    splits: list[str]
    question_id: Mapping[str, NDArray[np.int64]]
    image_id: Mapping[str, NDArray[np.int64]]
    question_types: Sequence[str]
    answer_types: Sequence[str]
    question_types_known: bool
    subsets: Mapping[str, Mapping[str, set[int]]]
    distributions: Mapping[str, Distribution]
    means: Mapping[str, Sequence[str]]
    visual_path: Path
    images: Path
    features: Mapping[str, Any]
    files: Mapping[str, Any]
    extra_text: str | None
    first_batches: Callable[[bool], tuple[BatchLoader, int]]

    def fingerprint(self) -> dict[str, Any]:
        """What `run.json` records of the data."""
        return {"files": self.files, "features": self.features, "tokenizer": self.tokenizer_digest}
