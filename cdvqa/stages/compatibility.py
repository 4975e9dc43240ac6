"""What two runs must share before one may start from the other."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdvqa.errors import InputError

if TYPE_CHECKING:
    from cdvqa.stages.stage import VQAStage


def network_metadata(stage: "VQAStage") -> dict[str, Any]:
    """The metadata of a network file written by `stage`: JSON-able."""
    data = stage.trainer.datamodule  # type: ignore[attr-defined]
    return {
        "backbone": stage.backbone.description,
        "answers": list(data.vocabulary.answers),
        "text_format": stage.protocol.text_format,
        "tokenizer": data.tokenizer_digest,
        "stage": stage.stage,
        "pipeline": stage.pipeline,
        "preset": stage.preset,
        "departures": stage.departures,
    }


def check_compatible(path: Path, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    """Raise InputError where the network in `path` has another backbone, vocabulary, text format or tokeniser."""
    for field in ("backbone", "answers", "text_format", "tokenizer"):
        if theirs.get(field) != ours[field]:
            raise InputError(f"{path}: its {field} is not this run's: {difference(theirs.get(field), ours[field])}")


def difference(theirs: Any, ours: Any) -> str:
    """The first difference, in a few words."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        key = next(key for key in [*ours, *theirs] if theirs.get(key) != ours.get(key))
        return f"{key} is {theirs.get(key)!r} there and {ours.get(key)!r} here"
    if isinstance(theirs, list) and isinstance(ours, list):
        if len(theirs) != len(ours):
            return f"{len(theirs)} entries there and {len(ours)} here"
        i = next(i for i, (a, b) in enumerate(zip(theirs, ours, strict=True)) if a != b)
        return f"entry {i} is {theirs[i]!r} there and {ours[i]!r} here"
    return f"{theirs!r} there and {ours!r} here"
