"""The data of a run: which questions each stage trains on, is measured on, or answers."""

import os
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Optional

import numpy as np
import pytorch_lightning as pl
from numpy.typing import NDArray

from cdvqa.data.answers.prior import answer_counts
from cdvqa.data.answers.sequences import AnswerTexts
from cdvqa.data.answers.targets import SoftTargets
from cdvqa.data.answers.vocabulary import AnswerVocabulary
from cdvqa.data.batch import VQABatch
from cdvqa.data.dataset import Answered, GenerativeDataset, QuestionDataset, Views, VQADataset
from cdvqa.data.datasets import make_data_set
from cdvqa.data.datasets.dev_split import DevSplit
from cdvqa.data.handshake import OWN_TEXT, DataFacts, DataNeeds
from cdvqa.data.loaders import BatchLoader, TrainingLoader, evaluation_loader
from cdvqa.data.prepared import PreparedQuestions
from cdvqa.data.questions.archives import locate
from cdvqa.data.questions.extra_text import ExtraText, word_pieces
from cdvqa.data.questions.official import Questions, read_own_questions
from cdvqa.data.questions.text import TokenisedQuestions, load_tokenizer, tokenizer_digest
from cdvqa.data.visual.augmentation import AUGMENTATIONS, Augmentation
from cdvqa.data.visual.features import RegionFeatures
from cdvqa.data.visual.images import ImageFolder
from cdvqa.data.visual.source import VisualSource
from cdvqa.errors import InputError


class VQADataModule(pl.LightningDataModule):
    """Questions, answers, and region features or images of one data set.

    The answer vocabulary comes from the whole official train split; the priors and the training questions are what
    remains of it after the development split. Where the model is selected on test nothing is held out, and only then
    does `fit` read a test split. `predict` reads questions alone: the network that answers brings its vocabulary.

    Args:
        name: folder of this data set under logs/, such as vqacp2.
        layout: the data set: vqacp (VQA-CP v2, the embedded worlds, your own data in its files), vqavs, vqa2, vqace,
            gqaood, or the `package.module.Class` of a `cdvqa.data.datasets.DataSet`.
        root: folder of the official question and annotation files.
        num_answers: size of the answer vocabulary, known without the data and checked against it.
        features: HDF5 file of region features; <root>/features.h5 where null.
        images: folder of images named by their ids, for a backbone that sees pixels; <root>/images where null.
        augmentation: none, or mplug: in training, random crops, mirroring (which makes answers about left and right
            wrong) and RandAugment, as mPLUG's authors have them.
        questions: for predict, your own: a JSON list of {question_id, image_id, question}; null: the test splits'.
        extra_text: words read in the images and names of their objects, which are appended to the questions: a JSON
            list of {question_id, ocr, object_label}, as in mPLUG's processed VQA files.
        tokenizer: vocab.txt, a folder with one, or a hub name; null: <root>/vocab.txt, else bert-base-uncased.
        dev_split: how the development split is drawn from train where the data set has none: ood (answers of each
            question type near uniform, but at most a quarter of the questions of any answer) or iid.
        dev_share: part of train that is drawn; null: as the preset says (0.05 for `paper`); 0: none.
        split_seed: seed of that draw.
        min_count: training questions an answer needs to be in the vocabulary.
        num_workers: threads per training process that read ahead; 0 reads between the steps.
        eval_batch_size: questions per evaluation batch and process.
    """

    def __init__(
        self,
        name: str,
        layout: str,
        root: str,
        num_answers: int,
        features: Optional[str] = None,
        images: Optional[str] = None,
        augmentation: Augmentation = "none",
        questions: Optional[str] = None,
        extra_text: Optional[str] = None,
        tokenizer: Optional[str] = None,
        dev_split: DevSplit = "ood",
        dev_share: Optional[float] = None,
        split_seed: int = 0,
        min_count: int = 9,
        num_workers: int = 0,
        eval_batch_size: int = 256,
    ) -> None:
        super().__init__()
        self.name = name
        self.data_set = make_data_set(layout)
        self.root = Path(root)
        self.num_answers = num_answers
        self.features_file = Path(features) if features else self.root / "features.h5"
        self.images_folder = Path(images) if images else self.root / "images"
        self.augmentation: Augmentation = augmentation
        self.questions_file = Path(questions) if questions else None
        self.extra_text_file = Path(extra_text) if extra_text else None
        own_vocabulary = self.root / "vocab.txt"
        self.tokenizer_source = tokenizer or (str(own_vocabulary) if own_vocabulary.is_file() else "bert-base-uncased")
        self.dev_split: DevSplit = dev_split
        self.dev_share = dev_share
        self.split_seed = split_seed
        self.min_count = min_count
        self.num_workers = num_workers
        self.eval_batch_size = eval_batch_size
        self.needs: DataNeeds | None = None  # set before anything is read
        self.prepared: PreparedQuestions | None = None
        self.subsets: dict[str, dict[str, set[int]]] = {}  # question ids of the test sets inside each test split
        self.question_types: list[str] = []
        self.answer_types: list[str] = []
        self._datasets: dict[str, QuestionDataset] = {}

    # --- reading --------------------------------------------------------------------------------------------------

    def prepare_data(self) -> None:
        """In a distributed run, read and cache the questions in one process of each node; the others load the cache."""
        stage = str(self.trainer.state.fn) if self.trainer else ""
        if self._world_size() > 1 and stage in ("fit", "validate", "test"):
            with suppress(InputError):  # `setup` raises it again, in every process, so that all stop
                prepared = self._read()
                for split in prepared.splits_of(stage):
                    prepared.split(split)
                _ = prepared.prior

    def setup(self, stage: str) -> None:
        """Read what `stage` (fit, validate, test or predict) needs; what has been read stays.

        Raises:
            InputError: a file is missing or broken, or `num_answers` is not the size of the vocabulary.
        """
        self.__dict__.pop("facts", None)
        if self._needs.image_format is None and self.augmentation != "none":
            raise InputError(f"--data.augmentation {self.augmentation}: the backbone sees region features, no images")
        if stage == "predict":
            self._setup_predict()
            return
        if self.questions_file is not None:
            raise InputError(f"--data.questions {self.questions_file}: only `predict` takes questions without answers")
        prepared = self._read()
        splits = prepared.splits_of(stage)
        for split in splits:
            self._make(prepared, split)
            if stage == "test":
                self.subsets[split] = self.data_set.read_subsets(self.root, split, self._datasets[split].question_id)
        self.splits = [split for split in splits if split != "train"]

    def _setup_predict(self) -> None:
        """Read questions alone, in the text format of the network that answers them: no annotations, no train split."""
        network = self._needs.network
        if network is None:
            raise RuntimeError("`predict` needs what the network that answers says of itself: DataNeeds.network")
        splits = {} if self.questions_file and not self.root.is_dir() else self.data_set.present(self.root)
        if self.questions_file is None:
            tests = [split for split in splits if split not in ("train", "dev")]
            asked = {name: self.data_set.read_questions(locate(self.root, splits[name].questions)) for name in tests}
        elif self.questions_file.stem in splits:
            raise InputError(f"{self.questions_file}: its answers would replace those to a split; rename the file")
        else:
            asked = {self.questions_file.stem: read_own_questions(self.questions_file, self.visual)}
        self.tokenizer = load_tokenizer(self.tokenizer_source)
        self.tokenizer_digest = tokenizer_digest(self.tokenizer)
        self.vocabulary = AnswerVocabulary(network["answers"])
        self.text_format = network["text_format"]
        self.splits = list(asked)
        self.prepared = None
        self._datasets = {}
        for name, part in asked.items():
            pieces = word_pieces(part.question_id, part.text, self.tokenizer, self.text_format, self.extra_text)
            self._datasets[name] = QuestionDataset(part.question_id, part.image_id, pieces, self.visual)

    @property
    def _needs(self) -> DataNeeds:
        if self.needs is None:
            raise RuntimeError("set `datamodule.needs` to what the model asks of the data")
        return self.needs

    def prepare(self) -> PreparedQuestions:
        """The questions in the form the model needs; nothing is read yet."""
        return PreparedQuestions(
            self.data_set,
            self.root,
            self.tokenizer_source,
            self.min_count,
            self.dev_split,
            self.split_seed,
            self._needs.protocol,
            self.extra_text,
        )

    def check_num_answers(self, found: int) -> None:
        """Raise InputError unless the vocabulary of the train split has the size that the config says."""
        if found != self.num_answers:
            remedy = f"set --data.num_answers {found}"
            raise InputError(f"{self.root}: its train split has {found} answers, not {self.num_answers}; {remedy}")

    def _read(self) -> PreparedQuestions:
        protocol = self._needs.protocol
        if self.prepared is not None and self.prepared.protocol == protocol:
            return self.prepared
        prepared = self.prepare()
        self.check_num_answers(len(prepared.vocabulary))
        self.tokenizer, self.tokenizer_digest = prepared.tokenizer, prepared.tokenizer_digest
        self.vocabulary = prepared.vocabulary
        self.text_format = protocol.text_format
        self.question_types, self.answer_types = prepared.question_types, prepared.answer_types
        self.prepared, self._datasets = prepared, {}
        return prepared

    def _make(self, prepared: PreparedQuestions, split: str) -> None:
        if split in self._datasets:
            return
        questions, tokens, targets = prepared.split(split)
        needs, types, training = self._needs, prepared.question_types, split == "train"
        visual = self._training_visual() if training else self.visual
        if training and needs.sequences:
            answers = AnswerTexts.from_annotations(questions.annotations, self.tokenizer)
            self._datasets[split] = GenerativeDataset(questions, tokens, answers, visual)
            return
        self._datasets[split] = VQADataset(
            questions,
            tokens,
            targets,
            prepared.prior,
            types,
            prepared.answer_types,
            visual,
            with_answers=not training,
            random_label_seed=self._seed() if training and prepared.protocol.no_answer == "random" else None,
            counts=answer_counts(questions.annotations, self.vocabulary, types) if training and needs.counts else None,
            views=self._views(questions, targets) if training and needs.views else None,
        )

    def _views(self, questions: Questions, targets: SoftTargets) -> Views:
        def tokenise(question_id: NDArray[np.int64], text: list[str]) -> TokenisedQuestions:
            return word_pieces(question_id, text, self.tokenizer, self.text_format, self.extra_text)

        annotations = questions.annotations
        answered = Answered(annotations.question_type, annotations.answer_type, targets)
        return Views.of(self._needs.views, questions.text, answered, tokenise, self._seed())

    # --- loaders --------------------------------------------------------------------------------------------------

    def train_dataloader(self) -> BatchLoader:
        """The training questions, shuffled in each epoch by the run's seed."""
        return TrainingLoader(
            self._datasets["train"],
            self._batch_size()[0],
            seed=self._seed(),
            epoch=self._epoch(),
            rank=self._rank(),
            world_size=self._world_size(),
            num_workers=self.num_workers,
        )

    def first_batches(self, whole: bool) -> tuple[BatchLoader, int]:
        """A loader of the training questions in the order of the first epoch, the same in every process; and how many
        of its batches together hold `global_batch` questions: one if `whole`.
        """
        batch_size, parts = self._batch_size()
        if whole:
            batch_size, parts = batch_size * parts, 1
        return TrainingLoader(self._datasets["train"], batch_size, seed=self._seed()), parts

    def _batch_size(self) -> tuple[int, int]:
        """Questions that one process takes at once, and how many such batches make an optimiser step."""
        processes = self._world_size() * (self.trainer.accumulate_grad_batches if self.trainer else 1)
        batch_size, rest = divmod(self._needs.protocol.global_batch, processes)
        if rest or not batch_size:
            raise InputError(
                f"model.global_batch {self._needs.protocol.global_batch} is not a multiple of {processes} "
                "(processes times accumulated batches); change one of them"
            )
        return batch_size, processes

    def val_dataloader(self) -> list[BatchLoader]:
        """One loader for each split that is evaluated or answered."""
        for split in self.splits:
            if len(self._datasets[split]) < self._world_size():
                raise InputError(
                    f"{split}: {len(self._datasets[split])} questions are fewer than {self._world_size()} processes; "
                    "run it on fewer with --trainer.devices 1"
                )
        part = {"rank": self._rank(), "world_size": self._world_size(), "num_workers": self.num_workers}
        return [evaluation_loader(self._datasets[split], self.eval_batch_size, **part) for split in self.splits]

    test_dataloader = predict_dataloader = val_dataloader

    def on_after_batch_transfer(self, batch: VQABatch, dataloader_idx: int) -> VQABatch:
        """Features travel in the type they are stored in; what computes with them gets fp32."""
        return batch.widened()

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

    @cached_property
    def visual(self) -> VisualSource:
        """The feature file, or the folder of images where the backbone sees these; opened when it is first needed."""
        if self._needs.image_format is None:
            return RegionFeatures(self.features_file)
        return ImageFolder(self.images_folder, self._needs.image_format)

    def _training_visual(self) -> VisualSource:
        if isinstance(self.visual, ImageFolder) and self.augmentation != "none":
            return self.visual.augmented(AUGMENTATIONS[self.augmentation], self._seed())
        return self.visual

    @cached_property
    def extra_text(self) -> ExtraText | None:
        """What is appended to the questions."""
        return ExtraText(self.extra_text_file) if self.extra_text_file else None

    @cached_property
    def facts(self) -> DataFacts:
        """What has been read so far; collected again after each `setup`."""
        prepared = self.prepared
        extra = {str(self.extra_text_file): self.extra_text.digest} if self.extra_text else {}
        text = self.extra_text.digest["sha256"] if self.extra_text else None
        return DataFacts(
            root=self.root,
            seed=self._seed(),
            answers=self.vocabulary.answers,
            tokenizer=self.tokenizer,
            tokenizer_digest=self.tokenizer_digest,
            text_format=self.text_format,
            splits=self.splits,
            question_id={name: dataset.question_id for name, dataset in self._datasets.items()},
            image_id={name: dataset.image_id for name, dataset in self._datasets.items()},
            question_types=self.question_types,
            answer_types=self.answer_types,
            question_types_known=prepared is None or "train" not in self._datasets or prepared.question_types_known,
            subsets=self.subsets,
            distributions=self.data_set.distributions(),
            means=self.data_set.means(),
            visual_path=self.visual.path,
            images=self.images_folder,
            features=self.visual.fingerprint(),
            files=(dict(prepared.digests) if prepared else {}) | extra,
            extra_text=OWN_TEXT if text and self.questions_file else text,
            first_batches=self.first_batches,
        )
