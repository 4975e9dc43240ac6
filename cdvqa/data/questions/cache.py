"""What takes long to derive from the official files, kept beside them in `<root>/.cdvqa/`.

Each file says what it was derived from (SHA-256 of the inputs, settings, a format version), and is derived again when
that has changed, or when the file is damaged. A folder that cannot be written costs time and stops nothing.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import orjson
from numpy.typing import NDArray
from pytorch_lightning.utilities import rank_zero_warn

from cdvqa.data.questions.annotations import Annotations, Categories, HumanAnswers
from cdvqa.data.questions.official import Questions
from cdvqa.errors import Stopped
from cdvqa.files import read_json, write_atomically, write_json
from cdvqa.messages import progress_bar

Content = dict[str, Any]  # of arrays, or what JSON holds
T = TypeVar("T")
VERSION = 3  # of all kept files: raise it when what they hold, or how it is derived, changes
_COLUMNS = ("question_type", "answer_type", "multiple_choice_answer")


class Cache:
    """The folder of kept files.

    Args:
        root: folder of the official files.
    """

    def __init__(self, root: Path) -> None:
        self.folder = root / ".cdvqa"
        self._writable = True

    def get(
        self, name: str, origin: Mapping[str, Any], derive: Callable[[], Content], build: Callable[[Content], T]
    ) -> T:
        """`build` of what the file `name` holds if it was derived from `origin`, else of what `derive` gives.

        Args:
            name: `<name>.npz` for a dictionary of arrays, `<name>.json` for one that JSON can hold.
            origin: everything that the content depends on.
            derive: makes the content.
            build: builds the object from the content; it may raise anything where content is missing.
        """
        path = self.folder / name
        load, save = (_load_arrays, _save_arrays) if path.suffix == ".npz" else (read_json, write_json)
        # Through JSON, so that it compares equal to what a file gives back.
        derived_from = orjson.loads(orjson.dumps({"version": VERSION} | dict(origin)))
        try:
            content = load(path)
            if content["derived_from"] == derived_from:
                return build(content)
        except Exception:  # absent, or damaged in any of many ways: each has the same remedy
            pass
        with progress_bar(f"preparing {name}"):
            content = derive()
        try:
            save(path, {"derived_from": derived_from} | content)
        except (OSError, Stopped) as error:
            if self._writable:
                reason = getattr(error, "strerror", None) or str(error).removeprefix(f"{path}: ").partition(";")[0]
                rank_zero_warn(f"{self.folder}: cannot be written ({reason}); questions are read again by each run")
            self._writable = False
        return build(content)


def pack_questions(questions: Questions) -> Content:
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


def unpack_questions(arrays: Content) -> Questions:
    """What `pack_questions` packed."""
    columns = {name: Categories(_as_strings(arrays[f"{name}_names"]), arrays[f"{name}_codes"]) for name in _COLUMNS}
    answers = HumanAnswers(_as_strings(arrays["answers_names"]), arrays["answers_codes"], arrays["answer_offsets"])
    annotations = Annotations(arrays["question_id"], answers=answers, **columns)
    return Questions(arrays["image_id"], _as_strings(arrays["text"]), annotations)


def _load_arrays(path: Path) -> Content:
    with np.load(path, allow_pickle=False) as file:
        return dict(file) | {"derived_from": orjson.loads(file["derived_from"].tobytes())}


def _save_arrays(path: Path, content: Content) -> None:
    stamp = np.frombuffer(orjson.dumps(content["derived_from"]), np.uint8)
    with write_atomically(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, allow_pickle=False, **(content | {"derived_from": stamp}))


def _as_bytes(strings: list[str]) -> NDArray[np.uint8]:
    return np.frombuffer(orjson.dumps(strings), np.uint8)


def _as_strings(array: NDArray[np.uint8]) -> list[str]:
    strings: list[str] = orjson.loads(array.tobytes())
    return strings
