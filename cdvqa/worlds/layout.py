"""The folder of an embedded world: VQA-CP v2 files, one HDF5 of features, drawn images, and a vocabulary."""

import re
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import orjson

from cdvqa.errors import InputError
from cdvqa.files import write_folder

SPECIAL_PIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
MARKER = "world.json"
ID_STEP = 1000  # question_id = image_id * 1000 + position, as in VQA
Record = tuple[dict[str, Any], dict[str, Any]]  # of a question and its annotation
Size = Literal["full", "micro"]


def default_folder(world: str, size: Size) -> Path:
    """`data/scenes`, `data/scenes-micro`: the folder that the overlays name."""
    return Path("data", world if size == "full" else f"{world}-{size}")


def build_world(output: Path, identity: dict[str, Any], build: Callable[[Path], None]) -> None:
    """Let `build` fill a temporary folder beside `output`, then rename it: `output` is complete or absent.

    `identity` (name, version, seed, ...) is kept in `world.json` with the size of every file. A complete folder of the
    same identity is kept; anything else that exists there raises `InputError`.
    """
    if output.is_dir() and not any(output.iterdir()):
        output.rmdir()
    if output.exists():
        _check_existing(output, identity)
        print(f"{output} already holds this world; kept as it is")
        return
    start = time.perf_counter()
    with write_folder(output) as temporary:
        build(temporary)
        sizes = _file_sizes(temporary)
        write_json(temporary / MARKER, {**identity, "files": sizes})
    print(f"{output}: made, {sum(sizes.values()):,} bytes, {time.perf_counter() - start:.1f} s")


def _check_existing(output: Path, identity: dict[str, Any]) -> None:
    marker = output / MARKER
    if not marker.is_file():
        raise InputError(f"{output} exists and is not a world made by cdvqa; name another folder or remove it")
    found = orjson.loads(marker.read_bytes())
    sizes = found.pop("files", {})
    if found != orjson.loads(orjson.dumps(identity)):
        raise InputError(f"{output} holds another world (seed or version differ); name another folder or remove it")
    present = _file_sizes(output)  # with the cache of the data module beside them
    if any(present.get(file) != size for file, size in sizes.items()):
        raise InputError(f"{output} is incomplete or was changed; remove it and repeat the command")


def _file_sizes(folder: Path) -> dict[str, int]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MARKER)
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def record(
    question_id: int,
    image_id: int,
    question: str,
    coco_split: str,
    question_type: str,
    answer_type: str,
    answers: list[dict[str, Any]],
) -> Record:
    """One entry of a questions file and of an annotations file; the most common answer is the multiple-choice one."""
    ids = {"question_id": question_id, "image_id": image_id}
    majority = Counter(answer["answer"] for answer in answers).most_common(1)[0][0]
    kinds = {"question_type": question_type, "answer_type": answer_type, "multiple_choice_answer": majority}
    return ids | {"question": question, "coco_split": coco_split}, ids | kinds | {"answers": answers}


def write_split(folder: Path, split: str, records: list[Record]) -> None:
    """Write `vqacp_v2_<split>_questions.json` and `..._annotations.json` as bare lists."""
    write_records(folder / f"vqacp_v2_{split}_questions.json", folder / f"vqacp_v2_{split}_annotations.json", records)


def write_records(questions: Path, annotations: Path, records: list[Record]) -> None:
    """Write the two files of a split."""
    write_json(questions, [question for question, _ in records])
    write_json(annotations, [annotation for _, annotation in records])


def write_json(path: Path, content: Any) -> None:
    """Write compact JSON (the folder as a whole is renamed into place)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(orjson.dumps(content))


def write_vocabulary(path: Path, texts: Iterable[str]) -> None:
    """Write a BERT vocabulary whose pieces are the words of `texts`: [PAD] = 0, the special pieces, words in order."""
    words = {word for text in texts for word in re.findall(r"\w+|[^\w\s]", text.lower())}
    path.write_text("\n".join([*SPECIAL_PIECES, *sorted(words)]) + "\n", encoding="utf-8")
