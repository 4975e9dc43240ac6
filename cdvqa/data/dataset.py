"""Questions as a PyTorch data set that makes whole batches."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from cdvqa.data.annotations import Annotations
from cdvqa.data.batch import VQABatch
from cdvqa.data.features import RegionFeatures
from cdvqa.data.prior import QuestionTypePrior
from cdvqa.data.questions import Questions
from cdvqa.data.targets import SoftTargets
from cdvqa.data.text import TokenisedQuestions


class VQADataset(Dataset[VQABatch]):
    """N questions ready for batching.

    Args:
        questions: the questions, with their annotations.
        tokens: their word pieces.
        targets: their soft targets.
        prior: the answer prior of the training questions.
        question_types: index space of `batch.question_type`.
        answer_types: index space of `batch.answer_type`.
        features: features of their images.
        with_answers: put the raw human answers into each batch (evaluation).
        random_label_seed: where given, a question without an in-vocabulary answer gets a uniformly random label,
            another one in each epoch (the authors' training). It is a function of seed, epoch and question, so that a
            resumed run repeats it. Otherwise its label is −1.

    Raises:
        InputError: an image is not in the feature file.
    """

    def __init__(
        self,
        questions: Questions,
        tokens: TokenisedQuestions,
        targets: SoftTargets,
        prior: QuestionTypePrior,
        question_types: Sequence[str],
        answer_types: Sequence[str],
        features: RegionFeatures,
        with_answers: bool = False,
        random_label_seed: int | None = None,
    ) -> None:
        annotations: Annotations = questions.annotations
        features.check_images(questions.image_id, questions.question_id)
        self.question_id = questions.question_id
        self.image_id = questions.image_id
        self.tokens = tokens
        self.targets = targets
        self.prior = torch.from_numpy(prior.rows(question_types))
        self.question_type = torch.from_numpy(annotations.question_type.codes_in(question_types))
        self.answer_type = torch.from_numpy(annotations.answer_type.codes_in(answer_types))
        self.features = features
        self.answers = annotations.answers if with_answers else None
        self.random_label_seed = random_label_seed

    def __len__(self) -> int:
        return len(self.question_id)

    def __getitem__(self, index: int) -> VQABatch:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> VQABatch:
        """A batch, of which the loader asks for all questions at once. An index is epoch · N + row."""
        epoch, chosen = np.divmod(np.asarray(indices, np.intp), len(self))
        input_ids, attention_mask = self.tokens.batch(chosen)
        question_id = self.question_id[chosen]
        features = _empty(len(chosen), *self.features.shape[1:])
        _, boxes, region_mask = self.features.read(self.image_id[chosen], question_id, out=features.numpy())
        question_type = self.question_type[chosen]
        return VQABatch(
            question_id=torch.from_numpy(question_id),
            input_ids=torch.from_numpy(input_ids),
            attention_mask=None if attention_mask is None else torch.from_numpy(attention_mask),
            region_features=features,
            boxes=torch.from_numpy(boxes),
            region_mask=None if region_mask is None else torch.from_numpy(region_mask),
            soft_target=torch.from_numpy(self.targets.dense(chosen)),
            label=torch.from_numpy(self._label(chosen, epoch)),
            prior=self.prior[question_type],
            question_type=question_type,
            answer_type=self.answer_type[chosen],
            answers=None if self.answers is None else [self.answers[row] for row in chosen],
        )

    def _label(self, rows: NDArray[np.intp], epoch: NDArray[np.intp]) -> NDArray[np.int64]:
        label = self.targets.best_label[rows]
        if self.random_label_seed is not None:
            for place in np.flatnonzero(label < 0):
                draw = np.random.default_rng((self.random_label_seed, epoch[place], rows[place]))
                label[place] = draw.integers(self.targets.num_answers)
        return label


def _empty(*shape: int) -> Tensor:
    """An empty float32 tensor; in a loader's worker in shared memory, so that handing it over needs no copy."""
    if get_worker_info() is None:
        return torch.from_numpy(np.empty(shape, np.float32))  # numpy asks for huge pages: filling it is 4 times as fast
    storage = torch.UntypedStorage._new_shared(4 * math.prod(shape))
    return torch.empty(0).set_(storage, 0, shape)  # type: ignore[call-overload]
