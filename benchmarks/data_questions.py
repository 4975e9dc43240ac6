"""Questions from the official JSON to tensors: copies of the real VQA-VS Val file, to the size of VQA-CP v2."""

import os
import re
import shutil
import time
import zipfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import orjson
import torch
from transformers import PreTrainedTokenizerFast

from benchmarks.record import Record, interleave
from cdvqa.data.datasets import VQACP
from cdvqa.data.prepared import PreparedQuestions
from cdvqa.data.questions.text import LENGTH, load_tokenizer, tokenise
from cdvqa.presets import preset_protocol

SHARED = Path(os.environ.get("CDVQA_SHARED", Path(__file__).parents[2] / "shared"))
COPIES = 14
FILES = {"Ques": "vqacp_v2_train_questions.json", "Ans": "vqacp_v2_train_annotations.json"}
NOTE = (
    "Questions: 14 copies of the real VQA-VS Val file with new ids. Each figure is of a new process, imports excluded: "
    "from the files to word pieces, soft targets, priors, the split into train and dev, and a first batch."
)


class Prepared(NamedTuple):
    """The cost of preparing the questions."""

    wall: float
    cpu: float
    questions: int
    answers: int


def measure(folder: Path, archive: Path | None = None, copies: int = COPIES, repeats: int = 3) -> list[Record]:
    archive = archive or SHARED / "data/vqavs_val.zip"
    vocabulary = archive.with_name("bert_base_uncased_vocab.txt")
    for path in (archive, vocabulary):
        if not path.is_file():
            print(f"questions: left out: {path} is not there (set CDVQA_SHARED to the folder of the real data)")
            return []
    for kind, name in FILES.items():
        write_copies(archive, f"Val/Val-{kind}.json", folder / name, copies)
    first, cached = [], []
    for _ in range(repeats):
        shutil.rmtree(folder / ".cdvqa", ignore_errors=True)
        first.append(in_fresh_process(folder, vocabulary))
        cached.append(in_fresh_process(folder, vocabulary))
    kept = sorted((folder / ".cdvqa").iterdir())
    bare = interleave({"parse": partial(parse, folder), "read": lambda: [path.read_bytes() for path in kept]}, repeats)
    count, answers = first[0].questions, first[0].answers
    sizes = [sum(path.stat().st_size for path in paths) / 1e6 for paths in ([*folder.glob("*.json")], kept)]
    limits = (bare["parse"].median, bare["read"].median)
    notes = (
        f"{sizes[0]:.0f} MB, {answers:,} answers; limit: orjson alone",
        f"{sizes[1]:.0f} MB kept, inputs hashed anew; limit: reading what is kept",
    )
    return [
        Record(
            f"{count:,} questions {how}",
            median(run.wall for run in runs),
            "s",
            limit=limit,
            against=None,
            goal=goal,
            note=f"CPU {median(run.cpu for run in runs):.2f} s; {note}",
        )
        for how, runs, limit, goal, note in (
            ("from JSON to tensors", first, limits[0], "<= 30", notes[0]),
            ("from the cache to tensors", cached, limits[1], "<= 2", notes[1]),
        )
    ] + [tokenising(folder, vocabulary, count)]


def tokenising(folder: Path, vocabulary: Path, count: int) -> Record:
    """Word pieces of a tenth of the questions, scaled to all of them."""
    tenth = [record["question"] for record in orjson.loads((folder / FILES["Ques"]).read_bytes())][: count // 10]
    tokenizer = load_tokenizer(vocabulary)
    usual: Any = PreTrainedTokenizerFast(tokenizer_object=load_tokenizer(vocabulary), pad_token="[PAD]")
    batch_call = partial(
        usual, tenth, padding="max_length", truncation=True, max_length=LENGTH["standard"], return_tensors="pt"
    )
    times = interleave({"ours": lambda: tokenise(tenth, tokenizer, "standard"), "usual": batch_call}, 3)
    ours, baseline = (times[name].median * count / len(tenth) for name in ("ours", "usual"))
    note = "a tenth of them, scaled; baseline: Hugging Face's batch call"
    return Record(f"tokenising {count:,} questions", ours, "s", baseline, note=note)


def write_copies(archive: Path, member: str, path: Path, copies: int) -> None:
    """Repeat a JSON list as one list; only the question ids change, by two more digits."""
    with zipfile.ZipFile(archive) as file:
        records = file.read(member).strip()[1:-1]
    ids = re.compile(rb'"question_id": *\d+')
    with path.open("wb") as file:
        for copy in range(copies):
            file.write(b", " if copy else b"[")
            file.write(ids.sub(rb"\g<0>%02d" % copy, records))
        file.write(b"]")


def in_fresh_process(root: Path, vocabulary: Path) -> Prepared:
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(prepare, root, vocabulary).result()


def prepare(root: Path, vocabulary: Path) -> Prepared:
    """All that `cdvqa fit` needs of the questions before its first step."""
    wall, cpu = time.perf_counter(), time.process_time()
    prepared = PreparedQuestions(VQACP(), root, str(vocabulary), 9, "ood", 0, preset_protocol("paper", stage=1))
    splits = [prepared.split(name) for name in ("train", "dev")]
    rows = np.arange(min(256, len(splits[0].questions)))
    batch = (*splits[0].tokens.batch(rows), splits[0].targets.dense(rows), prepared.prior.table)
    tensors = [torch.from_numpy(array) for array in batch if array is not None]
    assert all(len(tensor) for tensor in tensors)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Prepared(wall, cpu, sum(len(split.questions) for split in splits), len(prepared.vocabulary))


def parse(folder: Path) -> None:
    for name in FILES.values():
        orjson.loads((folder / name).read_bytes())
