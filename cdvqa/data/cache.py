"""What reading the official files gives, kept beside them: questions by column, and their word pieces.

Reading and tokenising a split of VQA-CP v2's size takes fifteen seconds; with the kept arrays it is less than two. They
are known by the SHA-256 of what they were made from, and made anew when that changes. Where the folder cannot be
written nothing is kept.
"""

import hashlib
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray
from tokenizers import Tokenizer

from cdvqa.artefacts import write_atomically
from cdvqa.data.annotations import Annotations, Categories, HumanAnswers
from cdvqa.data.layouts import SplitFiles
from cdvqa.data.questions import Questions, read_questions
from cdvqa.data.text import TextFormat, TokenisedQuestions, tokenise

Arrays = dict[str, NDArray[Any]]
_VERSION = 1
_COLUMNS = ("question_type", "answer_type", "multiple_choice_answer")


class QuestionCache:
    """Reads the splits under a root, from `<root>/.cdvqa/` where they have been read before.

    Args:
        root: folder of the official files.
        tokenizer: cuts the questions into word pieces.
        tokenizer_digest: what tells this tokeniser from any other.
    """

    def __init__(self, root: Path, tokenizer: Tokenizer, tokenizer_digest: str) -> None:
        self.root = root
        self.tokenizer = tokenizer
        self.tokenizer_digest = tokenizer_digest
        self.digests: dict[str, dict[str, Any]] = {}

    def questions(self, files: SplitFiles) -> Questions:
        """The questions of a split, as `read_questions` gives them."""

        def read() -> Arrays:
            return _pack(read_questions(*(self.root / file for file in files)))

        return _unpack(self._kept(f"{Path(files.questions).stem}.npz", self._key(files), read))

    def tokens(self, files: SplitFiles, questions: Sequence[str], text_format: TextFormat) -> TokenisedQuestions:
        """The word pieces of a split's questions, as `tokenise` gives them."""

        def cut() -> Arrays:
            tokens = tokenise(questions, self.tokenizer, text_format)
            return {"ids": tokens.ids} | ({} if tokens.lengths is None else {"lengths": tokens.lengths})

        key = f"{self._key(files)} {self.tokenizer_digest}"
        arrays = self._kept(f"{Path(files.questions).stem}-{text_format}.npz", key, cut)
        return TokenisedQuestions(arrays["ids"], arrays.get("lengths"))

    def _key(self, files: SplitFiles) -> str:
        for file in files:
            path = self.root / file
            if file not in self.digests and path.is_file():  # a missing file is named by its reader
                with path.open("rb") as stream:
                    sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
                self.digests[file] = {"bytes": path.stat().st_size, "sha256": sha256}
        return f"{_VERSION} {' '.join(self.digests.get(file, {}).get('sha256', '') for file in files)}"

    def _kept(self, name: str, key: str, make: Callable[[], Arrays]) -> Arrays:
        path = self.root / ".cdvqa" / name
        try:
            with np.load(path, allow_pickle=False) as kept:
                if str(kept["key"]) == key:
                    return dict(kept)
        except (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile):
            pass
        arrays = make()
        try:
            with write_atomically(path) as temporary, temporary.open("wb") as file:
                np.savez(file, allow_pickle=False, key=np.array(key), **arrays)
        except OSError:
            pass
        return arrays


def _pack(questions: Questions) -> Arrays:
    annotations = questions.annotations
    columns = {name: getattr(annotations, name) for name in _COLUMNS} | {"answers": annotations.answers}
    return {
        "question_id": annotations.question_id,
        "image_id": questions.image_id,
        "text": _as_bytes(questions.text),
        "answer_offsets": annotations.answers.offsets,
        **{f"{name}_names": _as_bytes(column.names) for name, column in columns.items()},
        **{f"{name}_codes": column.codes for name, column in columns.items()},
    }


def _unpack(arrays: Arrays) -> Questions:
    columns = {name: Categories(_as_strings(arrays[f"{name}_names"]), arrays[f"{name}_codes"]) for name in _COLUMNS}
    answers = HumanAnswers(_as_strings(arrays["answers_names"]), arrays["answers_codes"], arrays["answer_offsets"])
    annotations = Annotations(arrays["question_id"], answers=answers, **columns)
    return Questions(arrays["image_id"], _as_strings(arrays["text"]), annotations)


def _as_bytes(strings: list[str]) -> NDArray[np.uint8]:
    return np.frombuffer(orjson.dumps(strings), np.uint8)


def _as_strings(array: NDArray[np.uint8]) -> list[str]:
    return orjson.loads(array.tobytes())  # type: ignore[no-any-return]
