"""Word vectors from a GloVe text file (Pennington et al., 2014), such as `glove.6B.300d.txt`."""

from collections.abc import Container
from pathlib import Path

import torch
from torch import Tensor

from cdvqa.errors import InputError

REMEDY = "give GloVe's text file, such as glove.6B.300d.txt, with --model.backbone.glove FILE"


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
