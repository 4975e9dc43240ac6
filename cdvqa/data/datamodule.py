"""The data of a run: which questions each stage trains on and is measured on."""

import hashlib
import os
from pathlib import Path
from typing import Any, Optional, cast

import numpy as np
import orjson
import pytorch_lightning as pl
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from cdvqa.data.answers import AnswerVocabulary
from cdvqa.data.batch import VQABatch
from cdvqa.data.cache import QuestionCache
from cdvqa.data.dataset import VQADataset
from cdvqa.data.features import RegionFeatures
from cdvqa.data.layouts import Layout, read_ood_question_ids, split_files
from cdvqa.data.prior import QuestionTypePrior
from cdvqa.data.questions import Questions
from cdvqa.data.samplers import evaluation_loader, training_loader
from cdvqa.data.splits import DevSplit, development_split
from cdvqa.data.targets import SoftTargets
from cdvqa.data.text import load_tokenizer
from cdvqa.errors import InputError
from cdvqa.protocol import Protocol


class VQADataModule(pl.LightningDataModule):
    """Questions, answers and region features of one data set.

    The answer vocabulary comes from the whole official train split; the priors and the training questions are what
    remains of it after the development split. Where the model is selected on test nothing is held out, and only then
    does `fit` read a test split.

    Args:
        name: folder of this data set under logs/, such as vqacp2.
        layout: file names and splits: vqacp (VQA-CP v2, the embedded worlds, your own data), vqavs, or vqa2.
        root: folder of the official question and annotation files.
        num_answers: size of the answer vocabulary, known without the data and checked against it.
        features: HDF5 file of region features; <root>/features.h5 where null.
        tokenizer: vocab.txt, a folder with one, or a hub name; where null <root>/vocab.txt, or without that
            bert-base-uncased.
        dev_split: how the development split is drawn from train where the data set has none: ood (answers of each
            question type near uniform) or iid.
        split_seed: seed of that draw.
        min_count: training questions an answer needs to be in the vocabulary.
        num_workers: loader processes per training process.
        eval_batch_size: questions per evaluation batch and process.
    """

    def __init__(
        self,
        name: str,
        layout: Layout,
        root: str,
        num_answers: int,
        features: Optional[str] = None,
        tokenizer: Optional[str] = None,
        dev_split: DevSplit = "ood",
        split_seed: int = 0,
        min_count: int = 9,
        num_workers: int = 0,
        eval_batch_size: int = 256,
    ) -> None:
        super().__init__()
        self.name = name
        self.layout: Layout = layout
        self.root = Path(root)
        self.num_answers = num_answers
        self.features_file = Path(features) if features else self.root / "features.h5"
        own_vocabulary = self.root / "vocab.txt"
        self.tokenizer_source = tokenizer or (str(own_vocabulary) if own_vocabulary.is_file() else "bert-base-uncased")
        self.dev_split: DevSplit = dev_split
        self.split_seed = split_seed
        self.min_count = min_count
        self.num_workers = num_workers
        self.eval_batch_size = eval_batch_size
        self.protocol: Protocol | None = None  # set it to use the data without a trainer; wins over the model's
        self._read_under: Protocol | None = None
        self.question_types: list[str] = []
        self.answer_types: list[str] = []
        self.ood_question_ids: dict[str, set[int]] | None = None

    # --- reading --------------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Read what `stage` (fit, validate, test or predict) needs; what has been read stays.

        Raises:
            InputError: a file is missing or broken, or `num_answers` is not the size of the vocabulary.
        """
        protocol = self._current_protocol()
        if protocol != self._read_under:
            self._read_train(protocol)
        if stage == "fit":
            self._make("train")
        if stage in ("fit", "validate"):
            self._make(self._selection_split())
        else:
            for split in self.test_splits:
                self._make(split)
            if self.layout == "vqavs":
                self.ood_question_ids = read_ood_question_ids(self.root)

    def _current_protocol(self) -> Protocol:
        if self.protocol is not None:
            return self.protocol
        if self.trainer is None:
            raise RuntimeError("set `datamodule.protocol` to use the data without a trainer")
        return cast(Protocol, self.trainer.lightning_module.protocol)

    def _read_train(self, protocol: Protocol) -> None:
        self._files = split_files(self.layout, self.root)
        self.test_splits = [split for split in self._files if split not in ("train", "dev")]
        self.ood_question_ids = None
        self.question_types, self.answer_types = [], []
        self._datasets: dict[str, VQADataset] = {}
        self._features = RegionFeatures(self.features_file)
        tokenizer = load_tokenizer(self.tokenizer_source)
        pieces = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
        self.tokenizer_digest = hashlib.sha256(orjson.dumps(pieces)).hexdigest()
        self._cache = QuestionCache(self.root, tokenizer, self.tokenizer_digest)

        self._train = self._read("train")
        annotations = self._train.annotations
        self.vocabulary = AnswerVocabulary.from_annotations(annotations, self.min_count)
        if len(self.vocabulary) != self.num_answers:
            raise InputError(
                f"{self.root}: its train split has {len(self.vocabulary)} answers, not {self.num_answers}; "
                f"set --data.num_answers {len(self.vocabulary)}"
            )
        self._parts: dict[str, NDArray[np.intp]] = {}
        if "dev" not in self._files and protocol.selection != "test":
            held_out = development_split(annotations, self.dev_split, self.split_seed)
            self._parts = {"train": np.flatnonzero(~held_out), "dev": np.flatnonzero(held_out)}
            annotations = annotations.select(self._parts["train"])
        self.prior = QuestionTypePrior.from_annotations(
            annotations, self.vocabulary, protocol.soft_score, protocol.normalise_prior
        )
        self.train_question_types = list(annotations.question_type.names)
        self._read_under = protocol

    def _read(self, split: str) -> Questions:
        """Read a split from its files, and give indices to the question and answer types it is the first to have."""
        questions = self._cache.questions(self._files[split])
        for known, column in (
            (self.question_types, questions.annotations.question_type),
            (self.answer_types, questions.annotations.answer_type),
        ):
            known.extend(name for name in column.names if name not in known)
        return questions

    def _make(self, split: str) -> None:
        if split in self._datasets:
            return
        protocol = self._current_protocol()
        origin = split if split in self._files else "train"  # a held-out development split lies in train's files
        questions = self._train if origin == "train" else self._read(origin)
        tokens = self._cache.tokens(self._files[origin], questions.text, protocol.text_format)
        if split in self._parts:
            questions, tokens = questions.select(self._parts[split]), tokens.select(self._parts[split])
        training = split == "train"
        self._datasets[split] = VQADataset(
            questions,
            tokens,
            SoftTargets.from_annotations(questions.annotations, self.vocabulary, protocol.soft_score),
            self.prior,
            self.question_types,
            self.answer_types,
            self._features,
            with_answers=not training,
            random_label_seed=self._seed() if training and protocol.no_answer == "random" else None,
        )

    def _selection_split(self) -> str:
        """The split that chooses the model; on test it is the out-of-distribution one, the last of them."""
        return self.test_splits[-1] if self._current_protocol().selection == "test" else "dev"

    # --- loaders --------------------------------------------------------------------------------------------------

    def train_dataloader(self) -> DataLoader[VQABatch]:
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

    def val_dataloader(self) -> DataLoader[VQABatch]:
        """The split that selects the model."""
        return self._evaluation_loader(self._selection_split())

    def test_dataloader(self) -> list[DataLoader[VQABatch]]:
        """One loader for each of `test_splits`."""
        return [self._evaluation_loader(split) for split in self.test_splits]

    def predict_dataloader(self) -> list[DataLoader[VQABatch]]:
        """The questions of the test splits."""
        return self.test_dataloader()

    def _evaluation_loader(self, split: str) -> DataLoader[VQABatch]:
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

    # --- lineage --------------------------------------------------------------------------------------------------

    def fingerprint(self) -> dict[str, Any]:
        """Sizes and SHA-256 of the question files read so far, and a digest of the feature file and the tokeniser."""
        return {
            "files": dict(self._cache.digests),
            "features": self._features.fingerprint(),
            "tokenizer": self.tokenizer_digest,
        }
