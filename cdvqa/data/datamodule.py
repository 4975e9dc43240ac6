"""The data of a run: which questions each stage trains on, is measured on, or answers."""

import os
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Optional, cast

import pytorch_lightning as pl

from cdvqa.data.answers import AnswerVocabulary
from cdvqa.data.archives import locate
from cdvqa.data.asked import read_own_questions
from cdvqa.data.batch import VQABatch
from cdvqa.data.dataset import QuestionDataset, VQADataset
from cdvqa.data.features import RegionFeatures
from cdvqa.data.layouts import Layout, read_ood_question_ids, split_files
from cdvqa.data.loaders import BatchLoader
from cdvqa.data.prepared import PreparedQuestions
from cdvqa.data.questions import read_asked
from cdvqa.data.samplers import evaluation_loader, training_loader
from cdvqa.data.splits import DevSplit
from cdvqa.data.text import load_tokenizer, tokenise, tokenizer_digest
from cdvqa.errors import InputError
from cdvqa.protocol import Protocol


class VQADataModule(pl.LightningDataModule):
    """Questions, answers and region features of one data set.

    The answer vocabulary comes from the whole official train split; the priors and the training questions are what
    remains of it after the development split. Where the model is selected on test nothing is held out, and only then
    does `fit` read a test split. `predict` reads questions alone: the network that answers brings its vocabulary.

    Args:
        name: folder of this data set under logs/, such as vqacp2.
        layout: file names and splits: vqacp (VQA-CP v2, the embedded worlds, your own data), vqavs, or vqa2.
        root: folder of the official question and annotation files.
        num_answers: size of the answer vocabulary, known without the data and checked against it.
        features: HDF5 file of region features; <root>/features.h5 where null.
        questions: for predict, questions of your own: a JSON list of {question_id, image_id, question}; the test
            splits' where null.
        tokenizer: vocab.txt, a folder with one, or a hub name; where null <root>/vocab.txt, or without that
            bert-base-uncased.
        dev_split: how the development split is drawn from train where the data set has none: ood (answers of each
            question type near uniform) or iid.
        split_seed: seed of that draw.
        min_count: training questions an answer needs to be in the vocabulary.
        cache: none, or ram: read the feature file into memory first, once per training process.
        num_workers: threads per training process that read ahead; 0 reads between the steps.
        eval_batch_size: questions per evaluation batch and process.
    """

    def __init__(
        self,
        name: str,
        layout: Layout,
        root: str,
        num_answers: int,
        features: Optional[str] = None,
        questions: Optional[str] = None,
        tokenizer: Optional[str] = None,
        dev_split: DevSplit = "ood",
        split_seed: int = 0,
        min_count: int = 9,
        cache: Literal["none", "ram"] = "none",
        num_workers: int = 0,
        eval_batch_size: int = 256,
    ) -> None:
        super().__init__()
        self.name = name
        self.layout: Layout = layout
        self.root = Path(root)
        self.num_answers = num_answers
        self.features_file = Path(features) if features else self.root / "features.h5"
        self.questions_file = Path(questions) if questions else None
        own_vocabulary = self.root / "vocab.txt"
        self.tokenizer_source = tokenizer or (str(own_vocabulary) if own_vocabulary.is_file() else "bert-base-uncased")
        self.dev_split: DevSplit = dev_split
        self.split_seed = split_seed
        self.min_count = min_count
        self.cache: Literal["none", "ram"] = cache
        self.num_workers = num_workers
        self.eval_batch_size = eval_batch_size
        self.protocol: Protocol | None = None  # set it to use the data without a trainer; wins over the model's
        self.network: dict[str, Any] | None = None  # what the network that is to predict says of itself
        self.prepared: PreparedQuestions | None = None
        self.ood_question_ids: dict[str, set[int]] | None = None
        self._datasets: dict[str, QuestionDataset] = {}

    # --- reading --------------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Read what `stage` (fit, validate, test or predict) needs; what has been read stays.

        Raises:
            InputError: a file is missing or broken, or `num_answers` is not the size of the vocabulary.
        """
        if stage == "predict":
            self._ask()
            return
        if self.questions_file is not None:
            raise InputError(f"--data.questions {self.questions_file}: only `predict` takes questions without answers")
        prepared = self._prepare(self._current_protocol())
        if stage == "fit":
            self._make(prepared, "train")
        if stage in ("fit", "validate"):
            self._make(prepared, self._selection_split())
        else:
            for split in self.test_splits:
                self._make(prepared, split)
            if self.layout == "vqavs":
                self.ood_question_ids = read_ood_question_ids(self.root)

    def _ask(self) -> None:
        """Read questions alone, as the network that answers them wants them: no annotations and no training split."""
        if self.network is None:
            raise RuntimeError("set `datamodule.network` to a network's metadata to ask it questions")
        splits = {} if self.questions_file and not self.root.is_dir() else split_files(self.layout, self.root)
        if self.questions_file is None:
            tests = [split for split in splits if split not in ("train", "dev")]
            asked = {split: read_asked(locate(self.root, splits[split].questions)) for split in tests}
        elif self.questions_file.stem in splits:
            raise InputError(f"{self.questions_file}: its answers would replace those to a split; rename the file")
        else:
            asked = {self.questions_file.stem: read_own_questions(self.questions_file, self.features)}
        tokenizer = load_tokenizer(self.tokenizer_source)
        self.tokenizer_digest = tokenizer_digest(tokenizer)
        self.vocabulary = AnswerVocabulary(self.network["answers"])
        self.text_format = self.network["text_format"]
        self.predict_splits = list(asked)
        self.prepared = None
        self._datasets = {
            name: QuestionDataset(
                part.question_id, part.image_id, tokenise(part.text, tokenizer, self.text_format), self.features
            )
            for name, part in asked.items()
        }

    def _current_protocol(self) -> Protocol:
        if self.protocol is not None:
            return self.protocol
        if self.trainer is None:
            raise RuntimeError("set `datamodule.protocol` to use the data without a trainer")
        return cast(Protocol, self.trainer.lightning_module.protocol)

    def _prepare(self, protocol: Protocol) -> PreparedQuestions:
        if self.prepared is not None and self.prepared.protocol == protocol:
            return self.prepared
        prepared = PreparedQuestions(
            self.layout,
            self.root,
            self.tokenizer_source,
            self.min_count,
            self.dev_split,
            self.split_seed,
            protocol,
        )
        if len(prepared.vocabulary) != self.num_answers:
            raise InputError(
                f"{self.root}: its train split has {len(prepared.vocabulary)} answers, not {self.num_answers}; "
                f"set --data.num_answers {len(prepared.vocabulary)}"
            )
        self.tokenizer_digest = prepared.tokenizer_digest
        self.vocabulary = prepared.vocabulary
        self.text_format = protocol.text_format
        self.test_splits = prepared.test_splits
        self.question_types, self.answer_types = prepared.question_types, prepared.answer_types
        self.prepared, self.ood_question_ids, self._datasets = prepared, None, {}
        return prepared

    def _make(self, prepared: PreparedQuestions, split: str) -> None:
        if split in self._datasets:
            return
        training = split == "train"
        self._datasets[split] = VQADataset(
            *prepared.split(split),
            prepared.prior,
            prepared.question_types,
            prepared.answer_types,
            self.features,
            with_answers=not training,
            random_label_seed=self._seed() if training and prepared.protocol.no_answer == "random" else None,
        )

    def _selection_split(self) -> str:
        """The split that chooses the model; on test it is the out-of-distribution one, the last of them."""
        return self.test_splits[-1] if self._current_protocol().selection == "test" else "dev"

    # --- loaders --------------------------------------------------------------------------------------------------

    def train_dataloader(self) -> BatchLoader:
        """The training questions, shuffled anew in each epoch by the run's seed."""
        processes = self._world_size() * (self.trainer.accumulate_grad_batches if self.trainer else 1)
        batch_size, rest = divmod(self._current_protocol().global_batch, processes)
        if rest or not batch_size:
            raise InputError(
                f"model.global_batch {self._current_protocol().global_batch} is not a multiple of {processes} "
                "(processes times accumulated batches); change one of them"
            )
        return training_loader(
            self._datasets["train"],
            batch_size,
            seed=self._seed(),
            epoch=self._epoch(),
            rank=self._rank(),
            world_size=self._world_size(),
            num_workers=self.num_workers,
        )

    def val_dataloader(self) -> BatchLoader:
        """The split that selects the model."""
        return self._evaluation_loader(self._selection_split())

    def test_dataloader(self) -> list[BatchLoader]:
        """One loader for each of `test_splits`."""
        return [self._evaluation_loader(split) for split in self.test_splits]

    def predict_dataloader(self) -> list[BatchLoader]:
        """One loader for each of `predict_splits`."""
        return [self._evaluation_loader(name) for name in self.predict_splits]

    def on_after_batch_transfer(self, batch: VQABatch, dataloader_idx: int) -> VQABatch:
        """Features travel in the type they are stored in; what computes with them gets fp32."""
        return batch.widened()

    def _evaluation_loader(self, split: str) -> BatchLoader:
        return evaluation_loader(
            self._datasets[split], self.eval_batch_size, self._rank(), self._world_size(), self.num_workers
        )

    def _rank(self) -> int:
        return self.trainer.global_rank if self.trainer else 0

    def _world_size(self) -> int:
        return self.trainer.world_size if self.trainer else 1

    def _epoch(self) -> int:
        """The epoch about to be trained, as the trainer counts it: not 0 when a run is resumed."""
        return self.trainer.fit_loop.epoch_progress.current.processed if self.trainer else 0  # type: ignore[attr-defined]

    def _seed(self) -> int:
        """The run's seed, which Lightning's `seed_everything` hands to every process through the environment."""
        return int(os.environ.get("PL_GLOBAL_SEED", 0))

    def question_ids(self, split: str) -> list[int]:
        """The questions of a split that has been set up, in its order."""
        return [int(question) for question in self._datasets[split].question_id]

    # --- features and lineage -------------------------------------------------------------------------------------

    @cached_property
    def features(self) -> RegionFeatures:
        """The feature file, opened when it is first needed."""
        return RegionFeatures(self.features_file, self.cache)

    @cached_property
    def feature_fingerprint(self) -> dict[str, Any]:
        """What tells these features from those of another extractor, scale or order."""
        return self.features.fingerprint()

    def fingerprint(self) -> dict[str, Any]:
        """Sizes and SHA-256 of the question files read so far, and a digest of the feature file and the tokeniser."""
        return {
            "files": dict(self.prepared.digests) if self.prepared else {},
            "features": self.feature_fingerprint,
            "tokenizer": self.tokenizer_digest,
        }
