"""The report as one HTML page that needs no other file and no network."""

import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from cdvqa.studies.report.figures import Figure
from cdvqa.studies.report.tables import Table

MOST = 20_000_000  # bytes of a page


def page(
    title: str,
    about: str,
    notes: Sequence[str],
    tables: Sequence[Table],
    figures: Sequence[Figure],
    browser: Mapping[str, Any],
) -> str:
    """The page. Every other single question is left out, again and again, until the page is below 20 MB.

    Args:
        title, about: its heading, and what it shows.
        notes: what a reader has to know of missing or broken runs.
        tables: the verdicts first, if there are any.
        figures: in the order of the page.
        browser: what `browse` returns.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["code"] = code
    template = environment.get_template("page.html")
    drawn = [(one.name, one.title, f"data:image/svg+xml;base64,{b64encode(one.svg).decode()}") for one in figures]
    while True:
        text = template.render(
            title=title, about=about, notes=notes, tables=tables, cells=cells, figures=drawn, browser=embedded(browser)
        )
        if len(text.encode()) < MOST or not browser:
            return text
        browser = halved(browser)


def halved(browser: Mapping[str, Any]) -> dict[str, Any]:
    """Every other question, with the images of these alone; empty once there is one left."""
    questions = browser["questions"][::2]
    if len(questions) == len(browser["questions"]):
        return {}
    shown = {question["image"] for question in questions}
    images = {number: image for number, image in browser["images"].items() if number in shown}
    return {**browser, "questions": questions, "images": images}


def code(text: str) -> Markup:
    """Text in which `this` is set as code."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def embedded(browser: Mapping[str, Any]) -> str:
    """JSON that no browser takes for the end of a script."""
    text = orjson.dumps(browser, option=orjson.OPT_NON_STR_KEYS).decode() if browser else "null"
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def cells(frame: pd.DataFrame) -> list[list[str]]:
    """The rows of a table as text."""
    return [[str(cell) for cell in row] for row in frame.fillna("").to_numpy().tolist()]
