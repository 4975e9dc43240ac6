"""Damaged inputs: every reader either reads a mutated file or refuses it in one line.

`make torture` runs it with 100,000 mutations a reader and writes the table "Damaged inputs" of docs/torture.md;
`python -m tests.fuzzing [READER ...]` does that alone. A mutation is a function of its reader, the seed and its number.
"""

import argparse
import mmap
import os
import pickle
import random
import resource
import shutil
import signal
import struct
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
import torch
from PIL import Image

from cdvqa.conversion.sources import open_features
from cdvqa.data.answers.cached_targets import read_answers, read_targets
from cdvqa.data.pickles import unpickle
from cdvqa.data.questions.official import read_questions
from cdvqa.data.visual.features import RegionFeatures, write_features
from cdvqa.data.visual.images import ImageFolder
from cdvqa.data.visual.source import ImageFormat
from cdvqa.errors import InputError
from cdvqa.sparsity import NetworkFile, Subnetwork
from tests.conversion.python2 import dumps_python2
from tests.conversion.sources.foreign import mmf_entry, mmf_info, write_hdf5, write_npz, write_own
from tests.data.toy import dump, split
from tests.tools.features_tsv import bottom_up, lxmert, sample_images

MUTATIONS = 100_000
PAGE = Path(__file__).parents[1] / "docs" / "torture.md"
HEADING = "\n## Damaged inputs\n"
PATIENCE = 20  # seconds for one file of a few KB, on a busy machine
MEMORY = 4 << 30  # bytes of address space beyond what the process has at its start
MARKS = (b"\0", b"\xff", b"\x80", b"\x7f", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\xff" * 8)
ENDED = {signal.SIGALRM: "no end", signal.SIGSEGV: "crash", signal.SIGKILL: "killed"}


@dataclass
class Outcome:
    """What became of the mutations of one reader."""

    name: str
    counts: Counter[str] = field(default_factory=Counter)
    """read, refused, and otherwise the kind of exception or end."""
    examples: dict[str, str] = field(default_factory=dict)
    peak: int = 0
    """MB that reading took beyond the process's start."""
    seconds: float = 0.0

    @property
    def uncaught(self) -> int:
        return self.counts.total() - self.counts["read"] - self.counts["refused"]


def mutate(content: bytes, others: list[bytes], draw: random.Random) -> bytes:
    """One to four changes: bytes set, flipped, cut out, doubled, put in, the end cut off, or a part of another file."""
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        at, length = draw.randrange(len(changed) + 1), min(1 << draw.randrange(8), len(changed))
        kind = draw.randrange(8)
        if kind <= 1:
            changed[at : at + 1] = bytes([draw.randrange(256)])
        elif kind == 2 and at < len(changed):
            changed[at] ^= 1 << draw.randrange(8)
        elif kind == 3:
            mark = draw.choice(MARKS)
            changed[at : at + len(mark)] = mark
        elif kind == 4:
            del changed[at : at + length]
        elif kind == 5:
            changed[at:at] = changed[at : at + length]
        elif kind == 6:
            other = draw.choice(others)
            start = draw.randrange(len(other))
            changed[at : at + length] = other[start : start + length]
        else:
            del changed[at:]
    return bytes(changed)


# --- readers: each makes its sound files in a folder, and reads one file of that folder that is replaced ------------


def images(width: int = 5):
    return sample_images(regions=[2, 3, 1], width=width)


def in_file(name: str, read: Callable[[Path], object]) -> Callable[[Path, bytes], object]:
    def reader(folder: Path, content: bytes) -> object:
        (folder / name).write_bytes(content)
        return read(folder)

    return reader


def convert(path: Path) -> None:
    source = open_features(path)
    index = source.index(lambda *_: None)
    list(source.images(index))


def read_regions(path: Path) -> None:
    features = RegionFeatures(path)
    features.read(features.image_id[:8])
    features.fingerprint()


def pickles(folder: Path):
    image = images()[0]
    content = {"a": [1, 2.5, None, True, "text", b"bytes", (1, 2), {3}], **mmf_entry(image), "x": np.float32(1)}
    return [pickle.dumps(content, protocol) for protocol in range(6)] + [dumps_python2(mmf_entry(image))]


def npz(folder: Path):
    savers = {"made": np.savez, "packed": np.savez_compressed}
    written = [write_npz(folder / name, [images()[0]], save=save) / "1000.npz" for name, save in savers.items()]
    (folder / "in").mkdir()
    return [path.read_bytes() for path in written]


def npy(folder: Path):
    (folder / "in").mkdir()
    image = images()[0]
    np.save(folder / "in" / "1000.npy", image.features)
    np.save(folder / "info.npy", mmf_info(image))
    np.save(folder / "in" / "1000_info.npy", mmf_info(image))
    return [(folder / "info.npy").read_bytes()]


def feature_files(folder: Path):
    rng = np.random.default_rng(0)
    arrays = rng.normal(size=(3, 3, 5)).astype(np.float16), rng.random((3, 3, 4)), np.arange(3), np.ones((3, 2))
    write_features(folder / "own.h5", *arrays, np.array([1, 3, 2]))
    for name, storage in (("zip", {"compression": "gzip"}), ("chunks", {"chunks": (1, 2, 4)})):
        write_own(folder / f"{name}.h5", sample_images(count=3), **storage)
    with h5py.File(folder / "own.h5", "r+") as file:
        texts = {"format": b"cdvqa region features", "fingerprint": b'{"norm": {"mean": 1.0}}'}
        file.attrs.update({"version": 1} | {name: np.bytes_(text) for name, text in texts.items()})
    return [(folder / f"{name}.h5").read_bytes() for name in ("own", "zip", "chunks")]


def bottom_up_hdf5(folder: Path):
    return [write_hdf5(folder / "in.hdf5", sample_images(count=3)).read_bytes()]


def tsv(folder: Path):
    return ["".join(f"{line(image)}\n" for image in images()).encode() for line in (bottom_up, lxmert)]


def questions(folder: Path):
    asked, annotations = split(3, 0)
    dump(folder / "annotations.json", annotations)
    dump(folder / "in.json", asked)
    return [(folder / "in.json").read_bytes()]


def annotations(folder: Path):
    asked, annotated = split(3, 0)
    dump(folder / "questions.json", asked)
    dump(folder / "in.json", annotated)
    return [(folder / "in.json").read_bytes()]


def targets(folder: Path):
    records = [{"question_id": i, "labels": [i % 3, 3], "scores": [1, 1 / 3], "question_type": "is"} for i in range(4)]
    return [pickle.dumps(records, protocol) for protocol in (0, 2, 4)]


def vocabularies(folder: Path):
    answers = ["yes", "no", "2", "red"]
    return [pickle.dumps(answers, 2), pickle.dumps({answer: label for label, answer in enumerate(answers)}, 2)]


def networks(folder: Path):
    mask = torch.arange(64).reshape(8, 8) % 3 > 0
    state = {"a.weight": torch.randn(8, 8) * mask, "a.bias": torch.randn(8)}
    half = Subnetwork(state, {"a.weight": mask}, {"answers": ["yes"], "text_format": "standard"})
    mask = torch.arange(2048).reshape(16, 128) % 16 == 0
    few = Subnetwork({"a.weight": torch.randn(16, 128) * mask}, {"a.weight": mask}, {})  # its mask is deflated
    half.save(folder / "half.safetensors")
    few.save(folder / "few.safetensors", "int8")
    return [(folder / name).read_bytes() for name in ("half.safetensors", "few.safetensors")]


def decode(path: Path) -> None:
    """Read all tensors and masks; checksums would refuse nearly every damaged one before it is decoded."""
    file = NetworkFile(path)
    file._header.checksums = None
    file.verify()
    _ = file.masks


def pictures(folder: Path):
    (folder / "in").mkdir()
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 9, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("1.jpg", "2.png", "3.webp"):
        picture.save(folder / name, exif=exif)
    return [(folder / name).read_bytes() for name in ("1.jpg", "2.png", "3.webp")]


FORMAT = ImageFormat(16, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
READERS: dict[str, tuple[Callable[[Path], list[bytes]], Callable[[Path, bytes], object]]] = {
    "pickles": (pickles, lambda folder, content: unpickle(content, "here")),
    "npz of features": (npz, in_file("in/1000.npz", lambda folder: convert(folder / "in"))),
    "npy with pickled dict": (npy, in_file("in/1000_info.npy", lambda folder: convert(folder / "in"))),
    "HDF5 features": (feature_files, in_file("in.h5", lambda folder: read_regions(folder / "in.h5"))),
    "HDF5 of bottom-up baselines": (bottom_up_hdf5, in_file("in.hdf5", lambda folder: convert(folder / "in.hdf5"))),
    "TSV of features": (tsv, in_file("in.tsv", lambda folder: convert(folder / "in.tsv"))),
    "JSON questions": (
        questions,
        in_file("in.json", lambda folder: read_questions(str(folder / "in.json"), str(folder / "annotations.json"))),
    ),
    "JSON annotations": (
        annotations,
        in_file("in.json", lambda folder: read_questions(str(folder / "questions.json"), str(folder / "in.json"))),
    ),
    "cached targets": (
        targets,
        in_file("in.pkl", lambda folder: read_targets(folder / "in.pkl", ["yes", "no", "2", "red"], "third")),
    ),
    "cached vocabularies": (vocabularies, in_file("in.pkl", lambda folder: read_answers(folder / "in.pkl"))),
    "network files": (
        networks,
        in_file("in.safetensors", lambda folder: Subnetwork.load(folder / "in.safetensors")),
    ),
    "network files, checksums left out": (
        networks,
        in_file("in.safetensors", lambda folder: decode(folder / "in.safetensors")),
    ),
    "images": (pictures, in_file("in/1.png", lambda folder: ImageFolder(folder / "in", FORMAT).read([1]))),
}


# --- running them -----------------------------------------------------------------------------------------------------


def fuzz(name: str, mutations: int, seed: int, folder: Path) -> Outcome:
    """Give a reader this many mutated files, in processes of its own: one that crashes is replaced."""
    outcome, began = Outcome(name), time.monotonic()
    samples, reader = READERS[name]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    sound = samples(folder)
    for content in sound:
        reader(folder, content)
    first = 0
    with mmap.mmap(-1, 8) as board, (folder / "report").open("w+b") as report:
        while first < mutations:
            child = os.fork()
            if child == 0:
                work(
                    lambda content: reader(folder, content), sound, range(first, mutations), (name, seed), board, report
                )
            _, status = os.waitpid(child, 0)
            report.seek(0)
            while True:
                try:
                    kind, example, peak = pickle.load(report)
                except EOFError:
                    break
                outcome.counts[kind] += 1
                outcome.examples.setdefault(kind, example)
                outcome.peak = max(outcome.peak, peak)
            report.seek(0)
            report.truncate()
            first = struct.unpack("<q", board[:])[0] + 1
            if os.WIFSIGNALED(status):
                kind = ENDED.get(os.WTERMSIG(status), f"signal {os.WTERMSIG(status)}")
                outcome.counts[kind] += 1
                outcome.examples.setdefault(kind, f"mutation {first - 1}")
    outcome.seconds = time.monotonic() - began
    return outcome


def work(read, sound, numbers, key, board, report) -> None:  # type: ignore[no-untyped-def]
    """In the child: read each mutation and write down what became of it; never returns."""
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in numbers:
        board[:] = struct.pack("<q", number)
        draw = random.Random(f"{key} {number}")
        content = mutate(draw.choice(sound), sound, draw)
        signal.alarm(PATIENCE)
        kind, example = "read", ""
        try:
            read(content)
        except InputError as error:
            kind = "refused" if "\n" not in str(error) and len(str(error)) < 600 else "more than a line"
            example = "" if kind == "refused" else str(error)
        except BaseException as error:
            kind = type(error).__name__
            example = f"mutation {number}: " + "".join(traceback.format_exception(error)[-3:])
        signal.alarm(0)
        peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) // 1024
        pickle.dump((kind, example, peak), report)
        report.flush()
    os._exit(0)


def row(it: Outcome) -> str:
    """Of the page's table."""
    total, counts = it.counts.total(), it.counts
    cells = [it.name, f"{total:,}", f"{counts['read']:,}", f"{counts['refused']:,}", it.uncaught]
    cells += [f"{it.uncaught / total:.4%}", f"{it.peak} MB", f"{it.seconds / 60:.1f}"]
    return f"| {' | '.join(map(str, cells))} |"


def write_row(page: Path, outcome: Outcome, seed: int) -> None:
    """Put the row into the section at the end of the page, in place of an earlier one of this reader."""
    before, _, section = page.read_text().partition(HEADING)
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in section.splitlines() if line.startswith("| ")}
    rows[outcome.name] = row(outcome)
    lines = [
        "Sound files with one to four changes each (bytes set, flipped, cut out, doubled or inserted, the end cut off,",
        "parts of other files). A reader must read such a file, or refuse it in one line. Anything else (another",
        f"exception, a crash, over {PATIENCE} s or over {MEMORY >> 30} GB) is uncaught; the goal is 0. Seed {seed}.",
        "",
        "| reader | mutations | read | refused | uncaught | share | memory beyond the start | minutes |",
        "|---|---|---|---|---|---|---|---|",
        *(rows[name] for name in READERS if name in rows),
    ]
    page.write_text(before + HEADING + "\n" + "\n".join(lines) + "\n")


def fuzz_all(mutations: int, seed: int, page: Path, only: list[str] | None = None) -> bool:
    """Every reader in turn, with its files in memory where the system has such a folder; whether all is well."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    sound = True
    with tempfile.TemporaryDirectory(dir=memory) as temporary:
        for name in only or READERS:
            outcome = fuzz(name, mutations, seed, Path(temporary) / "files")
            print(f"{name}: {dict(outcome.counts)}, {outcome.peak} MB, {outcome.seconds:.0f} s", flush=True)
            for kind in outcome.counts.keys() - {"read", "refused"}:
                print(f"  {kind}: {outcome.examples[kind]}", flush=True)
            write_row(page, outcome, seed)
            sound &= not outcome.uncaught
    return sound


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("readers", nargs="*", help="these alone; the page keeps the rows of the others")
    parser.add_argument("--mutations", type=int, default=MUTATIONS, help="of each reader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--page", type=Path, default=PAGE)
    given = parser.parse_args()
    raise SystemExit(not fuzz_all(given.mutations, given.seed, given.page, given.readers))
