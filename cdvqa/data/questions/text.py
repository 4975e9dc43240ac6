"""Questions as word pieces."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson
from numpy.typing import NDArray
from tokenizers import BertWordPieceTokenizer, Tokenizer

from cdvqa.errors import InputError
from cdvqa.hub import VOCABULARIES, is_local
from cdvqa.presets import TextFormat

LENGTH = {"standard": 20, "authors": 14}
_REMEDY = "give a word-piece vocabulary with --data.tokenizer PATH/vocab.txt"


@dataclass(frozen=True)
class TokenisedQuestions:
    """Word pieces of N questions, padded to T with id 0.

    `ids` (N, T) in the smallest unsigned type that holds the vocabulary; `lengths` (N,) word pieces before the padding,
    or None where the format has no attention mask.
    """

    ids: NDArray[np.unsignedinteger]
    lengths: NDArray[np.uint8] | None

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, rows: NDArray[np.intp]) -> TokenisedQuestions:
        """The chosen rows, in the order given."""
        return TokenisedQuestions(self.ids[rows], None if self.lengths is None else self.lengths[rows])

    def batch(self, rows: NDArray[np.intp]) -> tuple[NDArray[np.int64], NDArray[np.int64] | None]:
        """`input_ids` (B, T) and `attention_mask` (B, T) or None."""
        ids = self.ids[rows].astype(np.int64)
        if self.lengths is None:
            return ids, None
        return ids, (np.arange(ids.shape[1]) < self.lengths[rows, None]).astype(np.int64)


def load_tokenizer(source: str | Path) -> Tokenizer:
    """A BERT-uncased word-piece tokeniser. It neither pads nor cuts: `tokenise` does that, for questions alone.

    Args:
        source: a `vocab.txt` (one piece a line), a folder with `vocab.txt` or `tokenizer.json`, or a name on the
            Hugging Face hub such as `bert-base-uncased`.

    Raises:
        InputError: nothing usable is there, or [PAD] is not piece 0, or [UNK], [CLS] or [SEP] is missing.
    """
    path = Path(source)
    if path.is_dir():
        path = next((path / name for name in ("vocab.txt", "tokenizer.json") if (path / name).is_file()), path)
        if path.is_dir():
            raise InputError(f"{source}: the folder holds neither vocab.txt nor tokenizer.json; {_REMEDY}")
    if not path.is_file():
        tokenizer = _from_hub(str(source))
    elif path.suffix == ".json":
        tokenizer = _from_json(path)
    else:
        tokenizer = _from_vocabulary(path)
    if tokenizer.token_to_id("[PAD]") != 0:
        raise InputError(f"{source}: [PAD] must be the first word piece; {_REMEDY}")
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _from_json(path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises the base class alone
        raise InputError(f"{path}: not a tokeniser ({error}); {_REMEDY}") from None


def _from_vocabulary(path: Path) -> Tokenizer:
    try:
        pieces = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: byte {error.start} is not UTF-8; {_REMEDY}") from None
    missing = {"[PAD]", "[UNK]", "[CLS]", "[SEP]"}.difference(pieces)
    if missing:
        raise InputError(f"{path}: the word-piece vocabulary lacks {sorted(missing)[0]}; {_REMEDY}")
    tokenizer: Tokenizer = BertWordPieceTokenizer(str(path), lowercase=True)._tokenizer
    return tokenizer


def _from_hub(name: str) -> Tokenizer:
    if name.endswith((".txt", ".json")) or name.startswith((".", "/", "~")):
        raise InputError(f"{name}: no such file; {_REMEDY}")
    from transformers import AutoTokenizer

    local = is_local(name, VOCABULARIES, _REMEDY)
    try:
        return AutoTokenizer.from_pretrained(name, local_files_only=local).backend_tokenizer
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"tokeniser {name!r} is neither a local file nor available on the hub ({reason}); {_REMEDY}"
        ) from None


def vocabulary_size(tokenizer: Tokenizer) -> int:
    """How many embeddings its word pieces need: one more than the highest id, for ids may have gaps."""
    return 1 + max(tokenizer.get_vocab().values())


def tokenizer_digest(tokenizer: Tokenizer) -> str:
    """SHA-256 of a tokeniser's word pieces in their order."""
    pieces = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    return hashlib.sha256(orjson.dumps(pieces)).hexdigest()


def tokenise(
    questions: Sequence[str], tokenizer: Tokenizer, text_format: TextFormat, length: int | None = None
) -> TokenisedQuestions:
    """Tokenise questions and cut or pad them to one length.

    Args:
        questions: N questions.
        tokenizer: from `load_tokenizer`.
        text_format: `standard` is [CLS] … [SEP] in 20 pieces with an attention mask; `authors` is 14 pieces without
            them and without a mask, so that the first word is at the position of [CLS] and padding is attended to.
        length: another number of pieces, at most 255.
    """
    length, special = length or LENGTH[text_format], text_format == "standard"
    ids = np.zeros((len(questions), length), np.uint16 if vocabulary_size(tokenizer) <= 1 << 16 else np.uint32)
    lengths = np.zeros(len(questions), np.uint8)
    for start in range(0, len(questions), 1 << 14):
        chunk = list(questions[start : start + (1 << 14)])
        for row, encoding in enumerate(tokenizer.encode_batch_fast(chunk, add_special_tokens=special), start):
            pieces = encoding.ids
            if len(pieces) > length:
                pieces = [*pieces[: length - 1], pieces[-1]] if special else pieces[:length]
            ids[row, : len(pieces)] = pieces
            lengths[row] = len(pieces)
    return TokenisedQuestions(ids, lengths if special else None)
