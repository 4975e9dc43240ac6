"""The two presets: how a stage is run where the paper and its authors' code differ.

`paper` follows the paper's text, and sound practice where it is silent. `authors` follows their published code.
Every field is a config field of its own; a value there wins over the preset, and each result names the difference.
"""

import inspect
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal, Optional, TypeVar, get_type_hints

from cdvqa.errors import InputError

Preset = Literal["paper", "authors"]
OptimizerName = Literal["adamw", "adam", "adamax", "authors_adamw"]
Selection = Literal["dev", "last", "test"]
SoftScore = Literal["third", "clark"]
TextFormat = Literal["standard", "authors"]
NoAnswer = Literal["skip", "random"]
TieBreak = Literal["exact", "strict", "strict_bf16"]
Schedule = Literal["linear", "epoch_cosine", "epoch_steps"]
Constructor = TypeVar("Constructor", bound=Callable[..., None])


@dataclass(frozen=True)
class Protocol:
    """The settled value of every preset field for one stage.

    Attributes:
        optimizer: torch's AdamW, Adam or Adamax, or the authors' AdamW (its eps is not scaled by the bias correction).
        weight_decay: for all parameter groups, scores too.
        global_batch: questions in one optimiser step over all processes and accumulated batches.
        warmup: optimiser steps with a rising rate; a float is a share of all steps, an int a number of steps.
        lmh_trainable: whether LMH's w, b and a are trained (Eq. 5) or stay at their random start.
        train_classifier: whether mask training also trains the classifier.
        normalise_prior: whether each question type's answer prior is divided by its sum.
        soft_score: n of ten answers score min(n/3, 1), or 0, .3, .6, .9, 1.
        text_format: [CLS] … [SEP] in 20 tokens with a mask, or 14 bare word pieces without one.
        no_answer: what RUBi and LPF take as the label of a question without an answer in the vocabulary.
        selection: which model of a run is kept: the best on the development split, the last, the best on test.
        dev_share: linked to data.dev_share: part of train that is held out as development split where the data set has
            none of its own.
        tie_break: exact sparsity at every reset, or the authors' strict comparison, with thresholds rounded to
            bfloat16 in their code for mPLUG.
        reset_before_evaluation: whether thresholds are re-selected before each validation; under `exact` they always
            are. Without it evaluation is the authors': also before the first step, and a reset follows a new best.
        schedule: the rate falls linearly after the warm-up; or it changes from epoch to epoch (`warmup` does not count
            then): along a cosine as in the authors' code for mPLUG, or in steps as in that of S-MRL.
    """

    optimizer: OptimizerName
    weight_decay: float
    global_batch: int
    # Annotated: jsonargparse reads 2 as 2.0 where another library was first to make a union of float and int, as typing
    # keeps one of them for the process.
    warmup: Annotated[int, "steps"] | Annotated[float, "share"]
    lmh_trainable: bool
    train_classifier: bool
    normalise_prior: bool
    soft_score: SoftScore
    text_format: TextFormat
    no_answer: NoAnswer
    selection: Selection
    dev_share: float
    tie_break: TieBreak
    reset_before_evaluation: bool
    schedule: Schedule


def takes_preset_fields(constructor: Constructor) -> Constructor:
    """Show the fields of `Protocol` in the signature of a constructor that ends in `**fields`, each null by default.

    Command-line options and their help are made from that signature.
    """
    own = [p for p in inspect.signature(constructor).parameters.values() if p.kind is not p.VAR_KEYWORD]
    fields = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Optional[kind])
        for name, kind in get_type_hints(Protocol, include_extras=True).items()
    ]
    constructor.__signature__ = inspect.Signature([*own, *fields])  # type: ignore[attr-defined]
    constructor.__doc__ = Protocol.__doc__
    return constructor


def preset_protocol(preset: Preset, stage: int, has_dev: bool = False) -> Protocol:
    """The preset's own values for `stage` (1, 2 or 3).

    `has_dev` says that the data set has a development split of its own, as VQA-VS has: the authors select on that.
    """
    paper = preset == "paper"
    return Protocol(
        optimizer="adamw" if paper else "authors_adamw" if stage == 2 else "adam",
        weight_decay=0.0,
        global_batch=256 if paper or stage == 2 else 64,
        warmup=(0.0 if stage == 2 else 0.25) if paper else (0 if stage == 2 else 34_235),
        lmh_trainable=paper,
        train_classifier=True,
        normalise_prior=False,
        soft_score="third",
        text_format="standard" if paper else "authors",
        no_answer="skip" if paper else "random",
        selection="dev" if paper or has_dev else "test",
        dev_share=0.05 if paper and not has_dev else 0.0,
        tie_break="exact" if paper else "strict",
        reset_before_evaluation=paper,
        schedule="linear",
    )


def settle(
    preset: Preset, stage: int, has_dev: bool, given: dict[str, Any], authors: dict[str, Any]
) -> tuple[Protocol, dict[str, Any]]:
    """Return the protocol in force and the fields that depart from the preset.

    Args:
        preset: `paper` or `authors`.
        stage: 1, 2 or 3.
        has_dev: whether the data set has a development split of its own.
        given: config values by field name; None means "as the preset says".
        authors: fields of the `authors` preset that differ for this backbone.

    Raises:
        InputError: a value out of range.
    """
    own = asdict(preset_protocol(preset, stage, has_dev)) | (authors if preset == "authors" else {})
    wanted = {field: value for field, value in given.items() if value is not None}
    warmup = wanted.get("warmup", 0)
    if warmup < 0 or (isinstance(warmup, float) and warmup > 1):
        raise InputError(f"--model.warmup: {warmup} is neither a share from 0.0 to 1.0 nor a whole number of steps")
    if wanted.get("global_batch", 1) < 1:
        raise InputError(f"--model.global_batch: {wanted['global_batch']} is no number of questions")
    if wanted.get("weight_decay", 0.0) < 0:
        raise InputError(f"--model.weight_decay: expected a number >= 0, got {wanted['weight_decay']}")
    departures = {field: value for field, value in wanted.items() if value != own[field]}
    return Protocol(**(own | wanted | {"dev_share": _dev_share(own | wanted, wanted, has_dev)})), departures


def _dev_share(settled: dict[str, Any], given: dict[str, Any], has_dev: bool) -> float:
    """The part of train that is held out: none where the data set has its own split, or the test split selects."""
    share, selection = settled["dev_share"], settled["selection"]
    if not 0 <= share < 1:
        raise InputError(f"--data.dev_share: {share} is no share from 0 up to 1")
    if has_dev:
        return 0.0
    if selection == "test":
        if given.get("dev_share"):
            raise InputError(f"--data.dev_share {share}: --model.selection test holds nothing out; leave it null, or 0")
        return 0.0
    if selection == "dev" and not share:
        raise InputError(
            "--model.selection dev: --data.dev_share is 0, so there is no development split; give a share such as "
            "0.05, or take --model.selection last"
        )
    return float(share)
