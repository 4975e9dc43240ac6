"""The questions of a data set, ready for batching but for the features of their images."""

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray
from pytorch_lightning.utilities import rank_zero_warn

from cdvqa.data.answers.cached_targets import TargetFiles, find_targets, read_answers, read_targets
from cdvqa.data.answers.prior import QuestionTypePrior
from cdvqa.data.answers.targets import SoftTargets
from cdvqa.data.answers.vocabulary import AnswerVocabulary, count_answers
from cdvqa.data.datasets.dev_split import DevSplit, development_split
from cdvqa.data.datasets.layouts import Layout, split_files
from cdvqa.data.questions.archives import find, locate
from cdvqa.data.questions.cache import Arrays, Kept, digest, pack_questions, unpack_questions
from cdvqa.data.questions.extra_text import ExtraText, word_pieces
from cdvqa.data.questions.official import Questions, join_questions, read_questions
from cdvqa.data.questions.text import TokenisedQuestions, load_tokenizer, tokenizer_digest
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
    """Reads the official files, and derives from them what training takes; both are kept in `<root>/.cdvqa/`.

    The vocabulary comes from the whole train split; priors and training questions are what remains of it after the
    development split. A split whose annotations are missing takes the cached targets of others
    (`cdvqa.data.answers.cached_targets`).

    Args:
        layout: file names and splits.
        root: folder of the official files.
        tokenizer_source: see `load_tokenizer`.
        min_count: training questions an answer needs to be in the vocabulary.
        dev_split: how the development split is drawn where the data set has none.
        split_seed: seed of that draw.
        protocol: text format, soft score, prior, and whether anything is held out of train.
        extra_text: what is written behind the questions.

    Attributes:
        files: official files by split; `dev` is among them only where the data set has its own.
        splits, test_splits: names of all splits and of the test splits.
        held_out: whether `dev` is a part of train.
        digests: bytes and SHA-256 of the files read so far.
        question_types, answer_types: names in all splits read so far, in order of first appearance.

    Raises:
        InputError: a file is missing or broken.
    """

    def __init__(
        self,
        layout: Layout,
        root: Path,
        tokenizer_source: str,
        min_count: int,
        dev_split: DevSplit,
        split_seed: int,
        protocol: Protocol,
        extra_text: ExtraText | None = None,
    ) -> None:
        self.layout: Layout = layout
        self.root = root
        self.protocol = protocol
        self.files = split_files(layout, root)
        self.test_splits = [split for split in self.files if split not in ("train", "dev")]
        self.tokenizer = load_tokenizer(tokenizer_source)
        self.tokenizer_digest = tokenizer_digest(self.tokenizer)
        self._tokenizer_state = _sha256(self.tokenizer.to_str().encode())
        self._kept = Kept(root)
        self._min_count = min_count
        self.digests: dict[str, dict[str, Any]] = {}
        self.question_types: list[str] = []
        self.answer_types: list[str] = []
        self._whole: dict[str, Questions] = {}
        self._splits: dict[str, Split] = {}
        self._dev_split: DevSplit = dev_split
        self._split_seed = split_seed
        self._extra_text = extra_text
        self.held_out = "dev" not in self.files and protocol.selection != "test"
        self.splits = ["train", *(["dev"] if "dev" in self.files or self.held_out else []), *self.test_splits]

    @cached_property
    def vocabulary(self) -> AnswerVocabulary:
        """The answers of the train split, or those that its cached targets were made with."""
        foreign = self._foreign("train")

        def count() -> dict[str, Any]:
            if foreign is not None:
                return AnswerVocabulary(read_answers(self.root / foreign.answers)).content()
            counts = count_answers(self._questions("train").annotations)
            kept = {answer: number for answer, number in counts.items() if number >= self._min_count}
            return AnswerVocabulary(list(kept)).content() | {"questions": list(kept.values())}

        origin = {"train": self._origin("train"), "min_count": self._min_count}
        return self._kept.json("vocabulary", origin, count, lambda content: AnswerVocabulary(content["answers"]))

    @cached_property
    def prior(self) -> QuestionTypePrior:
        """Mean soft targets of the training questions, by question type."""
        train, normalise = self.split("train"), self.protocol.normalise_prior
        origin = self._targets_origin("train") | {
            "normalise": normalise,
            "trained_on": _sha256(train.questions.question_id.tobytes()),
        }
        return self._kept.json(
            f"prior-{self.protocol.soft_score}{'-normalised' if normalise else ''}",
            origin,
            lambda: QuestionTypePrior.from_targets(
                train.questions.annotations.question_type, train.targets, normalise
            ).content(self.vocabulary),
            lambda content: QuestionTypePrior.from_content(content, self.vocabulary),
        )

    @property
    def question_types_known(self) -> bool:
        """False where train has cached targets without question types: the prior is then one row for all."""
        return self.split("train").questions.annotations.question_type.names != [""]

    @property
    def folder(self) -> Path:
        """Where everything is kept."""
        return self._kept.folder

    def split(self, name: str) -> Split:
        """A split by its name in `splits`; what has been read stays in memory."""
        if name not in self._splits:
            self._questions("train")  # its question and answer types come first, whatever is asked for first
            origin = "train" if self.held_out and name == "dev" else name
            split = Split(self._questions(origin), self._tokens(origin), self._targets(origin))
            if self.held_out and origin == "train":
                split = split.select(np.flatnonzero(self._is_dev == (name == "dev")))
            self._splits[name] = split
        return self._splits[name]

    @cached_property
    def _is_dev(self) -> NDArray[np.bool_]:
        return development_split(self._questions("train").annotations, self._dev_split, self._split_seed)

    # --- what is kept ---------------------------------------------------------------------------------------------

    def _questions(self, split: str) -> Questions:
        if split not in self._whole:
            foreign = self._foreign(split)

            def read() -> Arrays:
                questions = locate(self.root, self.files[split].questions)
                if foreign is None:
                    return pack_questions(read_questions(questions, locate(self.root, self.files[split].annotations)))
                path = self.root / foreign.targets
                answers = read_answers(self.root / foreign.answers)
                annotations = read_targets(path, answers, self.protocol.soft_score)
                return pack_questions(join_questions(questions, annotations, str(path)))

            if foreign is not None:
                rank_zero_warn(
                    f"{self.root / self.files[split].annotations} is not there; {foreign.targets} and "
                    f"{foreign.answers} are used. Their scores saturate: official accuracy is a lower bound. "
                    "Answer types are guessed from the answers."
                )
            questions = self._kept.arrays(self._name(split), self._origin(split), read, unpack_questions)
            for known, column in (
                (self.question_types, questions.annotations.question_type),
                (self.answer_types, questions.annotations.answer_type),
            ):
                known.extend(name for name in column.names if name not in known)
            self._whole[split] = questions
        return self._whole[split]

    def _tokens(self, split: str) -> TokenisedQuestions:
        text_format, extra = self.protocol.text_format, self._extra_text

        def cut() -> Arrays:
            questions = self._questions(split)
            tokens = word_pieces(questions.question_id, questions.text, self.tokenizer, text_format, extra)
            return {"ids": tokens.ids} | ({} if tokens.lengths is None else {"lengths": tokens.lengths})

        behind = {} if extra is None else {"extra_text": extra.digest["sha256"]}
        return self._kept.arrays(
            f"{self._name(split)}-{text_format}",
            self._origin(split) | {"tokenizer": self._tokenizer_state, "text_format": text_format} | behind,
            cut,
            lambda arrays: TokenisedQuestions(arrays["ids"], arrays.get("lengths")),
        )

    def _targets(self, split: str) -> SoftTargets:
        def score() -> Arrays:
            annotations = self._questions(split).annotations
            targets = SoftTargets.from_annotations(annotations, self.vocabulary, self.protocol.soft_score)
            return {name: getattr(targets, name) for name in ("offsets", "label", "score", "best_label")}

        return self._kept.arrays(
            f"{self._name(split)}-{self.protocol.soft_score}",
            self._targets_origin(split),
            score,
            lambda arrays: SoftTargets(
                len(self.vocabulary), arrays["offsets"], arrays["label"], arrays["score"], arrays["best_label"]
            ),
        )

    # --- what it was made from ------------------------------------------------------------------------------------

    def _name(self, split: str) -> str:
        return Path(self.files[split].questions).stem

    def _foreign(self, split: str) -> TargetFiles | None:
        if find(self.root, self.files[split].annotations) is not None:
            return None
        return find_targets(self.layout, split, self.root)

    def _origin(self, split: str) -> dict[str, Any]:
        foreign = self._foreign(split)
        files = self.files[split] if foreign is None else (self.files[split].questions, *foreign)
        for file in files:
            if file not in self.digests:
                self.digests[file] = digest(locate(self.root, file))
        origin = {file: self.digests[file]["sha256"] for file in files}
        return origin if foreign is None else origin | {"soft_score": self.protocol.soft_score}

    def _targets_origin(self, split: str) -> dict[str, Any]:
        vocabulary = _sha256(orjson.dumps(self.vocabulary.answers))
        return self._origin(split) | {"vocabulary": vocabulary, "soft_score": self.protocol.soft_score}


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
