"""Questions that somebody asks of a network: an id, an image and a text, and no answers."""

from pathlib import Path

from cdvqa.data.questions.official import PlainQuestions, read_plain_questions
from cdvqa.data.visual.source import VisualSource
from cdvqa.errors import InputError


def read_own_questions(file: Path, visual: VisualSource) -> PlainQuestions:
    """Read plain questions, and refuse those that cannot be answered.

    Raises:
        InputError: as `read_plain_questions`; a question is empty, or its image is lacking.
    """
    asked = read_plain_questions(file)
    for number, text in enumerate(asked.text):
        if not text.strip():
            where = f"{file}: record {number} (question {asked.question_id[number]})"
            raise InputError(f"{where}: 'question' is empty; write the question or remove the record")
    try:
        visual.check_images(asked.image_id, asked.question_id)
    except InputError as error:
        raise InputError(f"{file}: {error}; {visual.option} must hold every image asked about") from None
    return asked
