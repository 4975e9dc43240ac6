"""Words read in the image and names of its objects, written behind the question."""

import re
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from tokenizers import Tokenizer

from cdvqa.data.questions.annotations import check_fields, check_text
from cdvqa.data.questions.archives import digest
from cdvqa.data.questions.official import read_records
from cdvqa.data.questions.text import TokenisedQuestions, tokenise
from cdvqa.errors import InputError
from cdvqa.presets import TextFormat

_LENGTH = 80  # word pieces of a question with what stands behind it
_WORDS = 30  # that are taken of those read in the image


class ExtraText:
    """What mPLUG's processed VQA files have beside a question.

    Args:
        path: a JSON list of {question_id, ocr, object_label}, of which a record may lack the last two. `ocr` is a list
            of words, or of pairs [position, word]; `object_label` is such as "dog&&frisbee".

    Raises:
        InputError: the file is missing or damaged, or a field is of the wrong kind.
    """

    def __init__(self, path: Path) -> None:
        self.digest: dict[str, Any] = digest(path)
        self._behind: dict[int, str] = {}
        for number, record in enumerate(read_records(path, "questions")):
            check_fields(record, {"question_id": int}, number, str(path))
            where = f"{path}: record {number} (question {record['question_id']})"
            parts = (_clean(_words(record.get("ocr", []), where)), _objects(record.get("object_label", ""), where))
            self._behind[record["question_id"]] = "".join(f" [SEP] {part}" for part in parts if part)
        check_text(list(self._behind.values()), "ocr", str(path))

    def __len__(self) -> int:
        return len(self._behind)

    def behind(self, question_ids: NDArray[Any], questions: list[str]) -> list[str]:
        """Questions as they are tokenised: question [SEP] words [SEP] objects, without a part that is empty."""
        pairs = zip(question_ids.tolist(), questions, strict=True)
        return [question + self._behind.get(number, "") for number, question in pairs]


def word_pieces(
    question_ids: NDArray[Any],
    questions: list[str],
    tokenizer: Tokenizer,
    text_format: TextFormat,
    extra_text: ExtraText | None,
) -> TokenisedQuestions:
    """The word pieces of questions, with what there is to stand behind them; longer then, but cut all the same."""
    if extra_text is None:
        return tokenise(questions, tokenizer, text_format)
    return tokenise(extra_text.behind(question_ids, questions), tokenizer, text_format, _LENGTH)


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
    """As the authors clean them, and only them: the question and the objects stay as they are."""
    text = re.sub(r"[,.'!?\"()*#:;~]", "", " ".join(words).lower())
    return " ".join(text.replace("-", " ").replace("/", " ").rstrip(" ").split(" ")[:_WORDS])
