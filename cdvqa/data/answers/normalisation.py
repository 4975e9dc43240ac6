"""The answer normaliser of the VQA evaluation code (vqaEval.py), with its quirks kept bit for bit.

Results are only comparable when these rules are, so nothing here is repaired:

- a punctuation mark is deleted everywhere if it touches a space anywhere, or if the text holds digit-comma-digit;
  otherwise it becomes a space;
- the period rule was meant to look behind for a digit, but its look-behind is mistyped and never fails;
- a flag passed as the argument `count` limits the removal of periods to the first 32.
"""

import re
from functools import lru_cache

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_DIGIT_COMMA_DIGIT = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_PERIODS_REMOVED = int(re.UNICODE)
_ARTICLES = frozenset({"a", "an", "the"})
_NUMBERS = {
    "none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5",
    "six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10",
}  # fmt: skip

# The contractions of the evaluation code. Most keys are the word without one of its apostrophes, the exceptions are
# spelt out ("somebody'd" loses its own). Its entries for "Im", "Ive" and "Id've" never match: words are in lower case.
_ONE_APOSTROPHE = """
ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd how'll how's
isn't it'd it'll ma'am mightn't might've mustn't must've needn't not've o'clock oughtn't shan't should've shouldn't
somebody'll somebody's someone'd someone'll someone's something'd something'll that's there'd there're there's they'd
they'll they're they've 'twas wasn't we've weren't what'll what're what's what've when's where'd where's where've
who'd who'll who's who've why'll why're why's won't would've wouldn't y'all you'd you'll you're you've
"""
_TWO_APOSTROPHES = """
couldn't've hadn't've he'd've it'd've mightn't've she'd've shouldn't've somebody'd've someone'd've something'd've
there'd've they'd've we'd've who'd've wouldn't've y'all'll you'd've
"""
_CONTRACTIONS = (
    {word.replace("'", ""): word for word in _ONE_APOSTROPHE.split()}
    | {word.replace("'", "", 1): word for word in _TWO_APOSTROPHES.split()}
    | {"".join(word.rsplit("'", 1)): word for word in _TWO_APOSTROPHES.split()}
    | {form: "'ow's'at" for form in ("ow's'at", "'ows'at", "'ow'sat")}
    | {form: "y'all'd've" for form in ("yall'd've", "y'alld've", "y'all'dve")}
    | {"somebody'd": "somebodyd"}
)


def strip_punctuation(text: str) -> str:
    """Remove or replace punctuation (the first half of the normaliser); case is kept."""
    digit_comma_digit = _DIGIT_COMMA_DIGIT.search(text) is not None
    stripped = text
    for mark in _PUNCTUATION:
        touches_space = f"{mark} " in text or f" {mark}" in text
        stripped = stripped.replace(mark, "" if touches_space or digit_comma_digit else " ")
    return _PERIOD.sub("", stripped, count=_PERIODS_REMOVED)


def map_words(text: str) -> str:
    """Lower-case, write number words none … ten as digits, drop articles, restore contractions (the second half)."""
    numbers = (_NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in numbers if word not in _ARTICLES)


@lru_cache(maxsize=1 << 18)
def normalise_official(answer: str) -> str:
    """Normalise an answer as the official VQA evaluation does, where the ten human answers differ."""
    return map_words(strip_punctuation(answer.replace("\n", " ").replace("\t", " ").strip()))


def normalise_answer(answer: str) -> str:
    """Normalise a `multiple_choice_answer` for the answer vocabulary.

    Args:
        answer: the raw answer.

    Returns:
        The normalised answer; it may be empty ("a", "the the", "..").
    """
    return map_words(strip_punctuation(answer)).replace(",", "")
