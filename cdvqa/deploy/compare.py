"""`cdvqa compare`: two networks side by side."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Optional

import orjson
import torch
from jsonargparse.typing import NonNegativeInt
from tabulate import tabulate

from cdvqa.cli.parsing import call
from cdvqa.deploy.agreement import compare_answers
from cdvqa.deploy.forms import test_batches
from cdvqa.deploy.network import Network, load
from cdvqa.errors import InputError
from cdvqa.files import write_json
from cdvqa.inference.timing import latencies
from cdvqa.messages import progress_bar
from cdvqa.runs.folder import DIGITS
from cdvqa.runs.identity import differences, text
from cdvqa.sparsity.statistics import summed
from cdvqa.studies.report.overlap import read_masks
from cdvqa.studies.report.verdicts import DRAWS

BATCHES = (1, 8)
COUNTS = ("weights", "zeros of A", "zeros of B", "questions", "kept", "full", "bytes")
FORMATS = {
    **dict.fromkeys(COUNTS, ","),
    **dict.fromkeys(("share of A", "share of B", "agreement", "equal answers"), ".2%"),
    **dict.fromkeys(("Jaccard of kept", "by chance"), ".3f"),
    **dict.fromkeys(("accuracy of A", "accuracy of B"), ".2f"),
    **dict.fromkeys(("difference", "95 % interval"), "+.2f"),
    **dict.fromkeys(("score of A", "score of B"), ".2f"),
    **{f"ms, batch {number}": ".1f" for number in BATCHES},
}


class Section(NamedTuple):
    """A part of the comparison.

    Attributes:
        name: its key in the JSON file.
        title: its heading.
        rows: rows of its table; JSON values by column.
        notes: how to read it, and what is left out.
    """

    name: str
    title: str
    rows: list[dict[str, Any]]
    notes: list[str]

    @property
    def markdown(self) -> str:
        """Heading, table and notes."""
        table = [{name: cell(name, value) for name, value in row.items()} for row in self.rows]
        shown = [tabulate(table, "keys", "github", disable_numparse=True)] if table else []
        return "\n\n".join([f"## {self.title}", *shown, *self.notes])


def cell(column: str, value: Any) -> str:
    """A value as the text of a table cell."""
    if value is None:
        return "-"
    if column in FORMATS:
        return " … ".join(format(one, FORMATS[column]) for one in (value if isinstance(value, list) else [value]))
    plain = value if isinstance(value, str) else text(value)
    return " ".join(plain.split()).replace("|", "\\|")


def run(args: list[str]) -> None:
    """Run `cdvqa compare` with command-line arguments."""
    text = "A finished run's folder, or a network file with its run."
    print(call(compare, args, {name: {"metavar": name.upper(), "help": text} for name in ("a", "b")}))


def compare(a: str, b: str, json: Optional[Path] = None, examples: NonNegativeInt = 10) -> str:
    """Compare two networks: settings, masks, answers, size and speed, as Markdown.

    Args:
        a: a finished run's folder, or a network file with its run.
        b: another one.
        json: a new file to write the same content to.
        examples: changed answers to show of each test split, at most.

    Returns:
        The report.

    Raises:
        InputError: `json` exists, a source is no network, its run is not finished, or its predictions are broken.
    """
    if json and json.exists():
        raise InputError(f"--json {json}: it is there already; name a new file")
    with progress_bar("comparing"):
        networks = [load(a), load(b)]
        answers, changed, notes = compare_answers(networks, examples)
        if any(row["95 % interval"] for row in answers):
            notes.append(
                "Accuracy in percent; difference: B less A, in points, "
                f"with the interval of {DRAWS:,} draws of questions."
            )
        few = [f"At most {examples} of each split; those whose score changes come first."] if changed else []
        sections = [
            Section("networks", "Networks", [overview(*pair) for pair in zip("AB", networks, strict=True)], []),
            compare_settings(networks),
            compare_masks(*networks),
            Section("answers", "Answers", answers, notes),
            Section("changed", "Changed answers", changed, few or ["None is shown."]),
            compare_speed(networks),
        ]
    if json:
        write_json(json, {part.name: {"rows": part.rows, "notes": part.notes} for part in sections})
    return "\n\n".join(["# Comparison of A and B", *(part.markdown for part in sections)])


def record_of(network: Network) -> dict[str, Any]:
    """The run.json of a network's run; empty where it has no run."""
    return network.run.read() if network.run else {}


def overview(letter: str, network: Network) -> dict[str, Any]:
    """The row of a network: its file, data, backbone, pipeline and selection."""
    record, metadata = record_of(network), network.metadata
    return {
        "network": letter,
        "file": str(network.path),
        "data": network.data.name,
        "backbone": network.backbone.name,
        "pipeline": "+".join(metadata["pipeline"]),
        "seed": record.get("seed"),
        "identity": short(record.get("identity", metadata.get("identity"))),
        "selected on": metadata["selection"],
    }


def short(value: Any) -> Any:
    """A JSON value in which every SHA-256 is cut to its first digits."""
    return orjson.loads(re.sub(rf"\b([0-9a-f]{{{DIGITS}}})[0-9a-f]{{{64 - DIGITS}}}\b", r"\1", text(value)))


def compare_settings(networks: Sequence[Network]) -> Section:
    """The settings in which the runs differ, seed and parent among them."""
    records, name, title = [record_of(network) for network in networks], "settings", "Settings that differ"
    for letter, record in zip("AB", records, strict=True):
        if not record:
            return Section(name, title, [], [f"{letter} is in no run folder: its settings are unknown."])
    there, here = ({**record["settings"], "seed_everything": record["seed"]} for record in records)
    found = differences(there, here).items()
    rows = [{"setting": field, "A": short(theirs), "B": short(ours)} for field, (theirs, ours) in found]
    return Section(name, title, rows, ["-: not set, or not read."] if rows else ["None."])


def compare_masks(a: Network, b: Network) -> Section:
    """The overlap of the masks by modality, and of all matrices that can be masked."""
    name, title, groups = "masks", "Masks", a.backbone.matrices()
    shapes = [{field: size for field, size in n.metadata["backbone"].items() if field != "answers"} for n in (a, b)]
    if shapes[0] != shapes[1]:
        return Section(name, title, [], ["Not compared: the backbones differ."])
    if not groups:
        return Section(name, title, [], [f"Not compared: {a.backbone.name} has no matrices to mask."])
    try:
        zeros = read_masks(a.path, groups).zeros(read_masks(b.path, groups))
    except InputError as error:
        return Section(name, title, [], [f"The overlap is not available: {error}."])
    zeros["all"] = summed(zeros.values())
    rows = [
        {
            "modality": modality,
            "weights": part.weights,
            "zeros of A": part.first,
            "share of A": part.first / part.weights,
            "zeros of B": part.second,
            "share of B": part.second / part.weights,
            "agreement": part.agreement,
            "Jaccard of kept": part.complement.index,
            "by chance": part.complement.by_chance,
        }
        for modality, part in zeros.items()
    ]
    note = "Agreement: weights that both keep or both prune. By chance: of random masks with as many zeros."
    return Section(name, title, rows, [note])


def compare_speed(networks: Sequence[Network]) -> Section:
    """Parameters, bytes, and milliseconds per batch of test questions, measured now, the networks by turns."""
    threads = torch.get_num_threads()
    notes = [
        "Parameters are those of the matrices that can be masked and of the classifier.",
        f"Latency: medians of interleaved repeats on test questions, {threads} thread{'s' * (threads > 1)}.",
    ]
    taken: dict[str, list[float]] = {}
    try:
        batches = [test_batches(network.data, BATCHES) for network in networks]
        # A pair of batches for each size: the networks may take images or regions, and other text formats.
        runtimes = {"A": lambda pair: networks[0].answer(pair[0]), "B": lambda pair: networks[1].answer(pair[1])}
        taken = latencies(runtimes, list(zip(*batches, strict=True)))
    except InputError as error:
        notes[1:] = [f"Latency is not measured: {error}."]
    rows = []
    for letter, network in zip("AB", networks, strict=True):
        parameters = record_of(network).get("parameters", {})
        row = {"network": letter, "kept": parameters.get("kept"), "full": parameters.get("full")}
        times = {f"ms, batch {number}": time for number, time in zip(BATCHES, taken.get(letter, []), strict=False)}
        rows.append({**row, "bytes": network.path.stat().st_size, **times})
    return Section("speed", "Size and speed", rows, notes)
