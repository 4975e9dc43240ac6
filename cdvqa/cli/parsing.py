"""Argument errors in one line."""

import re
from typing import NoReturn

from pytorch_lightning.cli import LightningArgumentParser

from cdvqa.errors import InputError

# Lines of the parser's own reports that tell of its inner workings, not of the mistake.
NOISE = re.compile(
    r"Does not validate against|Subtypes: |Errors:$|Given value|Expected a <class 'NoneType'>|Expected a path but|^tip:"
)
# Options of earlier versions, and what replaced them.
REPLACED = {
    "initialisation": "--model.sparsity.initialisation: use --model.sparsity.criterion (magnitude, random, "
    "first_order) and, in place of `weight`, --model.sparsity.scores weight"
}


class OneLineParser(LightningArgumentParser):
    """LightningArgumentParser whose errors are one line instead of two screens of usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        replaced = next((text for name, text in REPLACED.items() if name in message), None)
        raise InputError(replaced or one_line(message)) from ex


def one_line(message: str) -> str:
    """The lines of a parser's report that name the mistake, joined."""
    lines = [line.strip().removeprefix("- ") for line in message.splitlines()]
    kept = [line for line in lines if line and not NOISE.search(line)]
    named = re.search(r"NestedArg\(key='([^']+)'", message)
    text = re.sub(r'Parser key "[^"]*": ', "", " ".join(kept))
    text = re.sub(
        r"Expected a dot import path string: (.*)",
        r"no class is called '\1' (write Lxmert or cdvqa.backbones.Lxmert)",
        text,
    )
    return f"--model.{named[1]}: {text}" if named else text
