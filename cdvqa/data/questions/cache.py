"""What takes long to derive from the official files, kept beside them in `<root>/.cdvqa/`.

Each file says what it was made from (SHA-256 of the inputs, settings, a format version) and is made anew when that has
changed, or when the file is damaged or someone else's. Where the folder cannot be written nothing is kept.
"""

import hashlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import orjson
from numpy.typing import NDArray

from cdvqa.data.questions.annotations import Annotations, Categories, HumanAnswers
from cdvqa.data.questions.archives import Source, open_source
from cdvqa.data.questions.official import Questions
from cdvqa.files import read_json, write_atomically, write_json

Arrays = dict[str, NDArray[Any]]
Origin = Mapping[str, Any]
T = TypeVar("T")
VERSION = 2  # of all kept files: raise it when what they hold, or how it is derived, changes
_COLUMNS = ("question_type", "answer_type", "multiple_choice_answer")


class Kept:
    """The folder of kept files.

    Args:
        root: folder of the official files.
    """

    def __init__(self, root: Path) -> None:
        self.folder = root / ".cdvqa"

    def arrays(self, name: str, origin: Origin, make: Callable[[], Arrays], build: Callable[[Arrays], T]) -> T:
        """`build` of the arrays in `<name>.npz` if they were made from `origin`, else of what `make` gives."""
        path, made_from = self.folder / f"{name}.npz", _stamp(origin)

        def load() -> tuple[Any, Arrays]:
            with np.load(path, allow_pickle=False) as file:
                return orjson.loads(file["made_from"].tobytes()), dict(file)

        def save(arrays: Arrays) -> None:
            stamp = np.frombuffer(orjson.dumps(made_from), np.uint8)
            with write_atomically(path) as temporary, temporary.open("wb") as stream:
                np.savez(stream, allow_pickle=False, made_from=stamp, **arrays)

        return _kept(made_from, load, make, save, build)

    def json(
        self, name: str, origin: Origin, make: Callable[[], dict[str, Any]], build: Callable[[dict[str, Any]], T]
    ) -> T:
        """The same for an object in `<name>.json`."""
        path, made_from = self.folder / f"{name}.json", _stamp(origin)

        def load() -> tuple[Any, dict[str, Any]]:
            content = read_json(path)
            return content["made_from"], content

        def save(content: dict[str, Any]) -> None:
            write_json(path, {"made_from": made_from} | content)

        return _kept(made_from, load, make, save, build)


def digest(source: Source) -> dict[str, Any]:
    """Bytes and SHA-256 of a file, unpacked: packing makes no difference. InputError if it cannot be read."""
    with open_source(source) as stream:
        return {"sha256": hashlib.file_digest(stream, "sha256").hexdigest(), "bytes": stream.tell()}  # type: ignore[arg-type]


def pack_questions(questions: Questions) -> Arrays:
    """Questions as arrays alone."""
    annotations = questions.annotations
    columns = {name: getattr(annotations, name) for name in _COLUMNS} | {"answers": annotations.answers}
    return {
        "question_id": annotations.question_id,
        "image_id": questions.image_id,
        "text": _as_bytes(questions.text),
        "answer_offsets": annotations.answers.offsets,
        **{f"{name}_names": _as_bytes(column.names) for name, column in columns.items()},
        **{f"{name}_codes": column.codes for name, column in columns.items()},
    }


def unpack_questions(arrays: Arrays) -> Questions:
    """What `pack_questions` packed."""
    columns = {name: Categories(_as_strings(arrays[f"{name}_names"]), arrays[f"{name}_codes"]) for name in _COLUMNS}
    answers = HumanAnswers(_as_strings(arrays["answers_names"]), arrays["answers_codes"], arrays["answer_offsets"])
    annotations = Annotations(arrays["question_id"], answers=answers, **columns)
    return Questions(arrays["image_id"], _as_strings(arrays["text"]), annotations)


def _kept(
    made_from: Any,
    load: Callable[[], tuple[Any, Any]],
    make: Callable[[], Any],
    save: Callable[[Any], None],
    build: Callable[[Any], T],
) -> T:
    try:
        found, content = load()
        if found == made_from:
            return build(content)
    except Exception:  # absent, or damaged in any of many ways: each has the same remedy
        pass
    content = make()
    with suppress(OSError):
        save(content)
    return build(content)


def _stamp(origin: Origin) -> Any:
    """What is compared; through JSON, so that it is what a file gives back."""
    return orjson.loads(orjson.dumps({"version": VERSION} | dict(origin)))


def _as_bytes(strings: list[str]) -> NDArray[np.uint8]:
    return np.frombuffer(orjson.dumps(strings), np.uint8)


def _as_strings(array: NDArray[np.uint8]) -> list[str]:
    return orjson.loads(array.tobytes())  # type: ignore[no-any-return]
