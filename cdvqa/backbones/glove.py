"""Word embeddings that start from a GloVe text file (Pennington et al., 2014), such as `glove.6B.300d.txt`."""

from abc import abstractmethod
from collections.abc import Container
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cdvqa.backbones.backbone import LoadReport
from cdvqa.backbones.head import Classification
from cdvqa.errors import InputError

REMEDY = "give GloVe's text file, such as glove.6B.300d.txt, with --model.backbone.glove FILE"


class WordsFromGlove(Classification):
    """A backbone without pre-trained weights, except that its word embeddings may start from GloVe's vectors.

    Attributes:
        glove: GloVe's text file; without it all word embeddings start at random.
    """

    glove: str | None

    @abstractmethod
    def word_tables(self) -> list[Tensor]:
        """The weights of its word embeddings, each (vocab_size, embedding_size)."""

    @torch.no_grad()
    def load_pretrained(self) -> LoadReport | None:
        """Copy the `glove` file's vectors to the word pieces that are words of it; None without a file.

        Raises:
            InputError: the file is absent or unreadable, its vectors have another width, or it has none of the word
                pieces; or the tokenizer has more word pieces than the model embeds.
        """
        if self.glove is None:
            return None
        assert self.tokenizer is not None, "the stage hands over the tokenizer before weights are loaded"
        pieces, tables = self.tokenizer.get_vocab(), self.word_tables()
        size, width = tables[0].shape
        needed = max(pieces.values()) + 1
        if needed > size:
            raise InputError(f"--model.backbone.vocab_size is {size}; --data.tokenizer needs {needed}")
        vectors = read_glove(self.glove, pieces, width)
        rows = torch.tensor([pieces[word] for word in vectors])
        for table in tables:
            table[rows] = torch.stack(list(vectors.values())).to(table)
        source = f"{self.glove} ({len(vectors):,} of {len(pieces):,} word pieces)"
        missing = sorted(pieces.keys() - vectors.keys())
        per_word = len(tables) * width
        return LoadReport(source, per_word * len(vectors), per_word * size, missing, [])

    def from_scratch(self) -> dict[str, Any]:
        return {"glove": None}


def read_glove(path: str | Path, words: Container[str], width: int) -> dict[str, Tensor]:
    """The vectors, (width,) float32, of those of `words` that the file has.

    Lines are `word number number …`; lines of other words are not parsed.

    Raises:
        InputError: the file is absent or not text, a vector is broken or of another width, or no word is in the file.
    """
    vectors = {}
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                word, _, values = line.partition(" ")
                if word in words:
                    vectors[word] = read_vector(values, width, f"{path}: line {number} ({word!r})")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot read word vectors ({error}); {REMEDY}") from error
    if not vectors:
        raise InputError(f"{path}: has none of the word pieces of --data.tokenizer; {REMEDY}")
    return vectors


def read_vector(values: str, width: int, where: str) -> Tensor:
    """The vector (width,) that `values` spells, numbers with spaces between them.

    Args:
        values: the text.
        width: how many numbers it must have.
        where: location of the text, with which error messages begin.

    Raises:
        InputError: another number of them, or something that is not a finite number.
    """
    numbers = values.split()
    if len(numbers) != width:
        raise InputError(f"{where} has {len(numbers)} numbers, --model.backbone.embedding_size is {width}; {REMEDY}")
    try:
        vector = torch.tensor([float(number) for number in numbers])
    except ValueError as error:
        raise InputError(f"{where} is not a word vector ({error}); copy the file again") from error
    if not vector.isfinite().all():
        raise InputError(f"{where} has numbers that are not finite; copy the file again")
    return vector
