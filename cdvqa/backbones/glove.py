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
    """A backbone without pre-training, except that its words may start from GloVe's vectors.

    Attributes:
        glove: GloVe's text file; None starts all words at random.
    """

    glove: str | None

    @abstractmethod
    def word_tables(self) -> list[Tensor]:
        """The weights of its word embeddings, each (vocab_size, embedding_size)."""

    @torch.no_grad()
    def load_pretrained(self) -> LoadReport | None:
        """Start the word pieces that are words of the `glove` file with its vectors; None without one.

        Raises:
            InputError: word vectors absent, unreadable or of another width, or of none of the word pieces; or more
                word pieces than the model embeds.
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
        each = len(tables) * width
        return LoadReport(source, each * len(vectors), each * size, missing, [])

    def from_scratch(self) -> dict[str, Any]:
        return {"glove": None}


def read_glove(path: str | Path, words: Container[str], width: int) -> dict[str, Tensor]:
    """The vectors, (width,) float32, of those of `words` that the file has.

    Lines are `word number number …`; what stands after other words is passed over unread.

    Raises:
        InputError: the file is absent or no text, has a line that is no vector of this width, or none of the words.
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
    """`width` finite numbers with spaces between; `where` names their place in the message of an InputError."""
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
