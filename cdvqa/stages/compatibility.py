"""What two runs must share before one may start from the other, or be evaluated with its data."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from cdvqa.backbones import Backbone
from cdvqa.data.handshake import OWN_TEXT, DataFacts
from cdvqa.data.questions.text import vocabulary_size
from cdvqa.errors import InputError
from cdvqa.objectives import OBJECTIVES, Objective
from cdvqa.sparsity import NetworkFile

REMEDY = {"tokenizer": "; give the word pieces it was trained with by --data.tokenizer"}


def read_metadata(path: Path) -> dict[str, Any]:
    """The metadata of a network file or a checkpoint.

    Raises:
        InputError: it is neither, or it is broken.
    """
    if path.suffix == ".safetensors":
        return NetworkFile(path).metadata
    try:
        metadata: dict[str, Any] = torch.load(path, "cpu", mmap=True, weights_only=True)["network"]
    except Exception as error:  # torch's errors at a broken file have no common base
        raise InputError(f"{path}: no checkpoint of cdvqa, or a broken one ({type(error).__name__})") from error
    return metadata


def check_compatible(path: Path, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    """Raise InputError where a network has another backbone, vocabulary, text format, tokeniser or extra text."""
    for field in ("backbone", "answers", "text_format", "tokenizer"):
        if theirs.get(field) != ours[field]:
            what = difference(theirs.get(field), ours[field])
            raise InputError(f"{path}: its {field} is not this run's: {what}{REMEDY.get(field, '')}")
    there, here = theirs.get("extra_text"), ours["extra_text"]
    if "extra_text" in theirs and there != here and not (there and here == OWN_TEXT):  # old files do not say
        there, here = (f"the extra text {text[:12]}" if text else "no extra text" for text in (there, here))
        raise InputError(f"{path}: trained with {there}, and given {here}; set --data.extra_text as it was in training")


def check_checkpoint(path: Path, checkpoint: Mapping[str, Any], stage: int, ours: Mapping[str, torch.Tensor]) -> None:
    """Raise InputError where a checkpoint is of another stage, or its tensors are not `ours`, those of the model."""
    theirs, found = checkpoint.get("network"), checkpoint["state_dict"]
    if not isinstance(theirs, dict):
        raise InputError(f"{path}: no checkpoint of this cdvqa; it does not say which network it holds")
    if theirs.get("stage") != stage:
        raise InputError(
            f"{path}: a checkpoint of stage {theirs.get('stage')}, and the config is of stage {stage}; "
            "give that stage's config, or start this stage with --model.init_from"
        )
    other = ours.keys() ^ found.keys()
    other |= {name for name in ours.keys() - other if ours[name].shape != found[name].shape}
    if other:
        raise InputError(f"{path}: not a checkpoint of this config; they differ in {min(other)}")


def check_stage(backbone: Backbone, stage: int) -> None:
    """Raise InputError where a backbone is not for this stage."""
    if stage > 1 and not backbone.matrices():
        raise InputError(
            f"--model.backbone: {backbone.name} is a baseline for stage 1, with no matrices to mask; stages 2 and 3 "
            "take a pre-trained backbone"
        )


def check_objective(backbone: Backbone, name: str, objective: Objective) -> None:
    """Raise InputError where a backbone does not provide what the objective is to be trained with."""
    if backbone.generates and not takes_sequences(type(objective)):
        known = ", ".join(name for name, kind in OBJECTIVES.items() if takes_sequences(kind))
        raise InputError(
            f"--model.objective: {backbone.name} does not take {name}, only {known}; the others are defined over a "
            "vocabulary of answers"
        )
    if lacking := sorted((objective.needs & {"question", "vision"}) - backbone.provides.keys()):
        raise InputError(
            f"--model.objective: {name} needs `{lacking[0]}`, which {backbone.name} does not provide; "
            "take another backbone or objective"
        )


def check_data(backbone: Backbone, facts: DataFacts) -> None:
    """Raise InputError where a backbone cannot take the word pieces or the features."""
    check_word_pieces(backbone, facts.tokenizer)
    check_width(backbone, facts.visual_path, facts.features)


def check_word_pieces(backbone: Backbone, tokenizer: Tokenizer) -> None:
    """Raise InputError where the tokeniser has word pieces that the backbone does not embed."""
    embedded = backbone.description.get("vocab_size")
    pieces = vocabulary_size(tokenizer)
    if isinstance(embedded, int) and pieces > embedded:
        raise InputError(
            f"--data.tokenizer: {pieces:,} word pieces, the backbone embeds {embedded:,}; give the backbone's own"
        )


def check_width(backbone: Backbone, file: Path, features: Mapping[str, Any]) -> None:
    """Raise InputError where the region features in `file`, by their fingerprint, are of another width."""
    width, shape = backbone.description.get("visual_feat_dim"), features.get("shape")
    if width is not None and shape and shape[-1] != width:
        raise InputError(
            f"{file}: features are {shape[-1]} wide, the backbone takes {width}; point --data.features at such features"
        )


def takes_sequences(objective: type[Objective]) -> bool:
    """Whether an objective is defined over the word pieces of a generative backbone."""
    return objective.sequence is not Objective.sequence


def needs_question_types(objective: Objective) -> bool:
    """Whether an objective uses the answer prior or the answer counts of a question's type."""
    return bool(objective.needs & {"prior", "counts"})


def check_training(name: str, objective: Objective, facts: DataFacts, accumulated: int) -> None:
    """Raise InputError where an objective cannot be trained with these data, or with gradients accumulated."""
    if needs_question_types(objective) and not facts.question_types_known:
        raise InputError(
            f"{facts.root}: the cached targets of train name no question types, which --model.objective {name} "
            "needs; put the official annotations there, or use bce or ce"
        )
    if (objective.batch_dependent or objective.first is not None) and accumulated > 1:
        raise InputError(
            f"--trainer.accumulate_grad_batches: {name} depends on the whole batch; take 1, and a smaller "
            "--model.global_batch if memory is short"
        )


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
