"""Words read in the image and names of its objects, appended to the question."""

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from cdvqa.data.questions.annotations import check_fields, check_text
from cdvqa.data.questions.archives import digest
from cdvqa.data.questions.official import read_records
from cdvqa.data.questions.text import TokenisedQuestions, tokenise
from cdvqa.errors import InputError
from cdvqa.presets import TextFormat

_LENGTH = 80  # word pieces of a question with its extra text
_WORDS = 30  # of those read in the image, the first are used


class ExtraText:
    """The extra text of each question, as in mPLUG's processed VQA files.

    Args:
        path: a JSON list of {question_id, ocr, object_label}, of which a record may lack the last two. `ocr` is a list
            of words, or of pairs [position, word]; `object_label` is such as "dog&&frisbee".

    Raises:
        InputError: the file is missing or damaged, or a field is of the wrong kind.
    """

    def __init__(self, path: Path) -> None:
        self.digest: dict[str, Any] = digest(path)
        self._text: dict[int, str] = {}
        for number, record in enumerate(read_records(path, "questions")):
            check_fields(record, {"question_id": int}, number, str(path))
            where = f"{path}: record {number} (question {record['question_id']})"
            parts = (_clean(_words(record.get("ocr", []), where)), _objects(record.get("object_label", ""), where))
            self._text[record["question_id"]] = "".join(f" [SEP] {part}" for part in parts if part)
        check_text(list(self._text.values()), "ocr", str(path))

    def __len__(self) -> int:
        return len(self._text)

    def appended(self, question_ids: NDArray[np.int64], questions: list[str]) -> list[str]:
        """The questions with their extra text: question [SEP] words [SEP] objects, without a part that is empty."""
        pairs = zip(question_ids.tolist(), questions, strict=True)
        return [question + self._text.get(number, "") for number, question in pairs]


def word_pieces(
    question_ids: NDArray[np.int64],
    questions: list[str],
    tokenizer: Tokenizer,
    text_format: TextFormat,
    extra_text: ExtraText | None,
) -> TokenisedQuestions:
    """Tokenise questions (N), with their extra text if there is any: then up to 80 word pieces are kept."""
    if extra_text is None:
        return tokenise(questions, tokenizer, text_format)
    return tokenise(extra_text.appended(question_ids, questions), tokenizer, text_format, _LENGTH)


def _words(ocr: Any, where: str) -> list[str]:
    pairs: list[Any] = ocr if isinstance(ocr, list) else [None]
    words = [pair[-1] if isinstance(pair, list) and pair else pair for pair in pairs]
    if not all(isinstance(word, str) for word in words):
        raise InputError(f"{where}: 'ocr' must be a list of words, or of pairs [position, word]")
    return words


def _objects(label: Any, where: str) -> str:
    if not isinstance(label, str):
        raise InputError(f"{where}: 'object_label' must be a string such as \"dog&&frisbee\"")
    return label.replace("&&", " ")


def _clean(words: list[str]) -> str:
    """Clean the words as mPLUG's authors do; they leave the question and the objects as they are."""
    text = re.sub(r"[,.'!?\"()*#:;~]", "", " ".join(words).lower())
    return " ".join(text.replace("-", " ").replace("/", " ").rstrip(" ").split(" ")[:_WORDS])
