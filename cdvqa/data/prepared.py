"""The questions of a data set, ready for batching except for the features of their images."""

import hashlib
import inspect
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray
from pytorch_lightning.utilities import rank_zero_warn

from cdvqa.data.answers.cached_targets import read_answers
from cdvqa.data.answers.prior import QuestionTypePrior
from cdvqa.data.answers.targets import SoftTargets
from cdvqa.data.answers.vocabulary import AnswerVocabulary, count_answers
from cdvqa.data.datasets import DataSet
from cdvqa.data.datasets.dev_split import DevSplit, development_split
from cdvqa.data.questions.archives import digest, locate
from cdvqa.data.questions.cache import Cache, Content, pack_questions, unpack_questions
from cdvqa.data.questions.extra_text import ExtraText, word_pieces
from cdvqa.data.questions.official import Questions
from cdvqa.data.questions.text import TokenisedQuestions, load_tokenizer, tokenizer_digest
from cdvqa.errors import InputError
from cdvqa.presets import Protocol


class Split(NamedTuple):
    """N questions, their word pieces and their soft targets, row by row."""

    questions: Questions
    tokens: TokenisedQuestions
    targets: SoftTargets

    def select(self, rows: NDArray[np.intp]) -> "Split":
        """The chosen rows, in the order given."""
        return Split(self.questions.select(rows), self.tokens.select(rows), self.targets.select(rows))


class PreparedQuestions:
    """Reads the files of a data set and derives from them what training takes; both are cached in `<root>/.cdvqa/`.

    The vocabulary comes from the whole train split; priors and training questions are what remains of it after the
    development split. A split without annotations takes cached targets (`cdvqa.data.answers.cached_targets`).

    Args:
        data_set: files, reader and splits.
        root: folder of the files.
        tokenizer_source: see `load_tokenizer`.
        min_count: training questions an answer needs to be in the vocabulary.
        dev_split: how the development split is drawn where the data set has none.
        split_seed: seed of that draw.
        protocol: text format, soft score, prior, and whether anything is held out of train.
        extra_text: what is appended to the questions.

    Attributes:
        splits, test_splits: names of all splits and of the test splits.
        held_out: whether `dev` is a part of train; without it, and without its own, the data set has no `dev`.
        digests: bytes and SHA-256 of the files read so far.
        question_types, answer_types: names in all splits read so far, in order of first appearance.

    Raises:
        InputError: a file is missing or broken.
    """

    def __init__(
        self,
        data_set: DataSet,
        root: Path,
        tokenizer_source: str,
        min_count: int,
        dev_split: DevSplit,
        split_seed: int,
        protocol: Protocol,
        extra_text: ExtraText | None = None,
    ) -> None:
        self.data_set = data_set
        self.root = root
        self.protocol = protocol
        self.tokenizer = load_tokenizer(tokenizer_source)
        self.tokenizer_digest = tokenizer_digest(self.tokenizer)
        self.test_splits = [name for name in data_set.present(root) if name not in ("train", "dev")]
        self.held_out = protocol.dev_share > 0 and not data_set.has_dev
        self.splits = ["train", *(["dev"] if data_set.has_dev or self.held_out else []), *self.test_splits]
        self.digests: dict[str, dict[str, Any]] = {}
        self.question_types: list[str] = []
        self.answer_types: list[str] = []
        self._cache = Cache(root)
        self._min_count = min_count
        self._dev_split: DevSplit = dev_split
        self._split_seed = split_seed
        self._extra_text = extra_text
        self._whole: dict[str, Questions] = {}
        self._splits: dict[str, Split] = {}
        self._read_by = _sha256(Path(inspect.getfile(type(data_set))).read_bytes())
        self._tokenizer_state = _sha256(self.tokenizer.to_str().encode())

    @cached_property
    def vocabulary(self) -> AnswerVocabulary:
        """The answers of the train split, or those that its cached targets were made with."""

        def derive() -> Content:
            files = self.data_set.files(self.root, "train")
            if "answers" in files:
                return {"answers": read_answers(self.root / files["answers"])}
            counts = count_answers(self._questions("train").annotations)
            kept = {answer: number for answer, number in counts.items() if number >= self._min_count}
            if not kept:
                raise InputError(
                    f"{self.root}: no answer is given to {self._min_count} training questions or more, so that the "
                    "vocabulary is empty; lower --data.min_count"
                )
            return {"answers": list(kept), "questions": list(kept.values())}

        origin = {"train": self._origin("train"), "min_count": self._min_count}
        return self._cache.get("vocabulary.json", origin, derive, lambda content: AnswerVocabulary(content["answers"]))

    @cached_property
    def prior(self) -> QuestionTypePrior:
        """Mean soft targets of the training questions, by question type."""
        train, normalise = self.split("train"), self.protocol.normalise_prior
        types = train.questions.annotations.question_type
        trained_on = _sha256(train.questions.question_id.tobytes())

        def derive() -> Content:
            prior = QuestionTypePrior.from_targets(types, train.targets, normalise)
            return {"question_types": prior.question_types, "table": prior.table}

        return self._cache.get(
            f"prior-{self.protocol.soft_score}{'-normalised' if normalise else ''}.json",
            self._targets_origin("train") | {"normalise": normalise, "trained_on": trained_on},
            derive,
            lambda content: QuestionTypePrior(content["question_types"], np.asarray(content["table"], np.float32)),
        )

    @property
    def question_types_known(self) -> bool:
        """False where train has cached targets without question types: the prior is then one row for all."""
        return self.split("train").questions.annotations.question_type.names != [""]

    @property
    def folder(self) -> Path:
        """The folder of the cache."""
        return self._cache.folder

    def splits_of(self, stage: str) -> list[str]:
        """The splits that `fit`, `validate` or `test` reads, train first.

        `fit` selects on `dev`, or on test: on the last test split that is out of distribution, if there is one. Nothing
        selects where nothing is held out and the last state is kept.
        """
        if stage == "test":
            return self.test_splits
        if stage == "validate" and "dev" not in self.splits:
            raise InputError("--data.dev_share is 0, so there is no development split to validate on; use `cdvqa test`")
        if self.protocol.selection == "test":
            distributions = self.data_set.distributions()
            selecting = sorted(self.test_splits, key=lambda name: distributions[name] == "ood")[-1:]
        else:
            selecting = [name for name in self.splits if name == "dev"]
        return ["train", *selecting] if stage == "fit" else selecting

    def split(self, name: str) -> Split:
        """A split by its name in `splits`; what has been read stays in memory."""
        if name not in self._splits:
            self._questions("train")  # the types of train come first in the index spaces, whichever split is read first
            whole = "train" if self.held_out and name == "dev" else name
            split = Split(self._questions(whole), self._tokens(whole), self._targets(whole))
            if self.held_out and whole == "train":
                split = split.select(np.flatnonzero(self._is_dev == (name == "dev")))
            self._splits[name] = split
        return self._splits[name]

    @cached_property
    def _is_dev(self) -> NDArray[np.bool_]:
        return development_split(
            self._questions("train").annotations, self._dev_split, self._split_seed, self.protocol.dev_share
        )

    # --- what is cached -------------------------------------------------------------------------------------------

    def _questions(self, split: str) -> Questions:
        if split not in self._whole:
            files = self.data_set.files(self.root, split)
            if "targets" in files:
                rank_zero_warn(
                    f"{self.root / self.data_set.splits()[split].annotations} is not there; {files['targets']} and "
                    f"{files['answers']} are used. "
                    "Their scores saturate: official accuracy is a lower bound. Answer types are guessed from answers."
                )
            questions = self._cache.get(
                f"{split}.npz",
                self._origin(split),
                lambda: pack_questions(self.data_set.read(self.root, split, self.protocol.soft_score)),
                unpack_questions,
            )
            for known, column in (
                (self.question_types, questions.annotations.question_type),
                (self.answer_types, questions.annotations.answer_type),
            ):
                known.extend(name for name in column.names if name not in known)
            self._whole[split] = questions
        return self._whole[split]

    def _tokens(self, split: str) -> TokenisedQuestions:
        text_format, extra = self.protocol.text_format, self._extra_text
        extra_digest = extra.digest["sha256"] if extra else ""

        def derive() -> Content:
            questions = self._questions(split)
            tokens = word_pieces(questions.question_id, questions.text, self.tokenizer, text_format, extra)
            return {"ids": tokens.ids} | ({} if tokens.lengths is None else {"lengths": tokens.lengths})

        settings = {"tokenizer": self._tokenizer_state, "text_format": text_format, "extra_text": extra_digest}
        return self._cache.get(
            f"{split}-{text_format}{f'-{extra_digest[:8]}' if extra else ''}.npz",
            self._origin(split) | settings,
            derive,
            lambda arrays: TokenisedQuestions(arrays["ids"], arrays.get("lengths")),
        )

    def _targets(self, split: str) -> SoftTargets:
        columns = ("offsets", "label", "score", "best_label")

        def derive() -> Content:
            annotations = self._questions(split).annotations
            targets = SoftTargets.from_annotations(annotations, self.vocabulary, self.protocol.soft_score)
            return {name: getattr(targets, name) for name in columns}

        return self._cache.get(
            f"{split}-{self.protocol.soft_score}.npz",
            self._targets_origin(split),
            derive,
            lambda arrays: SoftTargets(len(self.vocabulary), *(arrays[name] for name in columns)),
        )

    # --- what it is derived from ----------------------------------------------------------------------------------

    def _origin(self, split: str) -> dict[str, Any]:
        files = self.data_set.files(self.root, split)
        for file in files.values():
            if file not in self.digests:
                self.digests[file] = digest(locate(self.root, file))
        rule = {"soft_score": self.protocol.soft_score} if "targets" in files else {}
        return {file: self.digests[file]["sha256"] for file in files.values()} | {"read_by": self._read_by} | rule

    def _targets_origin(self, split: str) -> dict[str, Any]:
        vocabulary = _sha256(orjson.dumps(self.vocabulary.answers))
        return self._origin(split) | {"vocabulary": vocabulary, "soft_score": self.protocol.soft_score}


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
