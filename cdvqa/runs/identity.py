"""What a run is: every setting that can change the trained network, and a digest of them."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from inspect import signature
from pathlib import Path
from typing import Any

from cdvqa.files import read_json
from cdvqa.runs.folder import run_of
from cdvqa.runs.weights import VOCABULARIES, tensors_digest, weights_identity

BASELINE: dict[str, Any] = read_json(Path(__file__).with_name("identity_baseline.json"))
"""Values that are left out of the digest. Only ever added to: a new option enters with the value that reproduces the
behaviour before it, and a default that changes does not change here. So a run keeps its identity."""


@dataclass(frozen=True)
class Reader:
    """Which settings a stage reads.

    Attributes:
        stage: 1, 2 or 3.
        trains: False for one-shot pruning.
        learns: whether the objective is used: the stage trains, or its criterion takes gradients.
        needs: what the objective takes beside logits and targets.
        schedule: linear or epoch_cosine.
        holds_out: whether development questions are held out of train.
    """

    stage: int
    trains: bool
    learns: bool
    needs: frozenset[str]
    schedule: str
    holds_out: bool


Reads = Callable[[Reader], bool]


def always(reader: Reader) -> bool:
    return True


def trains(reader: Reader) -> bool:
    return reader.trains


def learns(reader: Reader) -> bool:
    return reader.learns


def sparsifies(reader: Reader) -> bool:
    return reader.stage == 2


def trains_masks(reader: Reader) -> bool:
    return reader.stage == 2 and reader.trains


# Every config field is in one of the two tables, or below a field that is (`model.backbone` is a class_path and its
# arguments). Classes are written without `init_args`. IDENTITY says when a field is read; unread, it is left out.
IDENTITY: dict[str, Reads] = {
    "model.class_path": always,
    "model.backbone": always,
    "model.backbone.pretrained": lambda reader: reader.stage == 1,  # later stages start from their parent's weights
    "model.backbone.glove": lambda reader: reader.stage == 1,
    "model.objective": learns,
    "model.objective_options": learns,
    "model.teacher": learns,
    "model.lr": trains,
    "model.objective_lr": trains,
    "model.objective_clip": trains,
    "model.optimizer": trains,
    "model.weight_decay": trains,
    "model.global_batch": learns,
    "model.warmup": lambda reader: reader.trains and reader.schedule == "linear",
    "model.schedule": trains,
    "model.train_classifier": trains_masks,
    "model.normalise_prior": lambda reader: reader.learns and "prior" in reader.needs,
    "model.soft_score": learns,
    "model.text_format": always,
    "model.no_answer": lambda reader: reader.learns and "label" in reader.needs,
    "model.selection": trains,
    "model.tie_break": sparsifies,
    "model.reset_before_evaluation": trains_masks,
    "model.also_trained": trains_masks,  # what `authors` trains beside the masks, which is no field
    "model.sparsity": sparsifies,
    "model.sparsity.alpha": trains_masks,
    "model.sparsity.threshold": trains_masks,
    "model.sparsity.reset_every": trains_masks,
    "data.name": always,
    "data.layout": always,
    "data.min_count": always,
    "data.augmentation": learns,
    "data.extra_text": always,
    "data.tokenizer": always,
    "data.dev_split": lambda reader: reader.holds_out,
    "data.dev_share": lambda reader: reader.holds_out,
    "data.split_seed": lambda reader: reader.holds_out,
    "trainer.callbacks": always,
    "trainer.plugins": always,
    "trainer.precision": trains,
    "trainer.fast_dev_run": trains,
    "trainer.max_epochs": trains,
    "trainer.min_epochs": trains,
    "trainer.max_steps": trains,
    "trainer.min_steps": trains,
    "trainer.max_time": trains,
    "trainer.limit_train_batches": trains,
    "trainer.limit_val_batches": trains,  # validations decide which state is kept
    "trainer.val_check_interval": trains,
    "trainer.check_val_every_n_epoch": trains,
    "trainer.overfit_batches": trains,
    "trainer.gradient_clip_val": trains,
    "trainer.gradient_clip_algorithm": trains,
    "trainer.use_distributed_sampler": trains,
    "trainer.sync_batchnorm": trains,
    "trainer.reload_dataloaders_every_n_epochs": trains,
}

OUTSIDE = {
    # The seed is part of the folder. What starts the run enters as the identity of its parent.
    "seed_everything", "model.init_from", "model.parent_objective",
    # Enter by the fields, options and counts that they settle.
    "model.preset", "model.layout", "model.lmh_trainable", "model.dev_share", "data.num_answers",
    "model.backbone.num_answers",
    # Where and how it is computed, not what.
    "model.compile", "model.gradient_checkpointing", "data.num_workers", "data.eval_batch_size",
    "trainer.accelerator", "trainer.strategy", "trainer.devices", "trainer.num_nodes", "trainer.deterministic",
    "trainer.accumulate_grad_batches", "trainer.benchmark", "trainer.inference_mode", "trainer.detect_anomaly",
    # Logs, checkpoints, and what comes after the training.
    "trainer.logger", "trainer.log_every_n_steps", "trainer.enable_checkpointing", "trainer.enable_progress_bar",
    "trainer.enable_model_summary", "trainer.profiler", "trainer.barebones", "trainer.num_sanity_val_steps",
    "trainer.limit_test_batches", "trainer.limit_predict_batches", "trainer.enable_autolog_hparams",
    "trainer.model_registry", "checkpoint_every_n_steps", "overwrite", "ckpt_path", "config",
    # Paths: `data.name` stands for the content of the files, which the fingerprints in run.json are of.
    "data.root", "data.features", "data.images", "data.questions", "trainer.default_root_dir",
}  # fmt: skip

SHARES = ("overall", "language", "vision", "cross", "pooler")
WEIGHTS = ("model.backbone.pretrained", "model.backbone.glove")


def settings_of(config: Mapping[str, Any], stage: Any, seed: int) -> dict[str, Any]:
    """The settings that identify a run, by field: each with its settled value, JSON-able, baseline values included.

    Args:
        config: the parsed configuration of `fit`, as nested dictionaries.
        stage: its stage.
        seed: of the run.
    """
    fields = dict(flatten(config)) | {f"model.{name}": value for name, value in asdict(stage.protocol).items()}
    options = signature(type(stage.objective)).parameters.values()
    chosen = {option.name: option.default for option in options if option.default is not option.empty}
    fields |= {f"model.objective_options.{name}": v for name, v in (chosen | stage.objective_options).items()}
    fields["data.dev_share"] = stage.protocol.dev_share
    fields["trainer.precision"] = fields.get("trainer.precision") or "32-true"
    for name in ("trainer.callbacks", "trainer.plugins"):
        fields[name] = [class_of(entry) for entry in aslist(fields.get(name))]
    if stage.preset == "authors":
        fields["model.also_trained"] = stage.backbone.authors_also_train()
    if stage.sparsity is not None:
        for share in SHARES:
            fields.pop(f"model.sparsity.{share}", None)
        fields |= {f"model.sparsity.zeros.{name}": zeros for name, zeros in count_zeros(stage).items()}
    for name in WEIGHTS:
        if source := fields.get(name):
            fields[name] = weights_identity(source)
    if source := fields.get("data.tokenizer"):
        fields["data.tokenizer"] = weights_identity(source, VOCABULARIES)
    reader = reader_of(stage)
    read = {name: value for name, value in fields.items() if (reads := table_entry(name)) and reads(reader)}
    return {name: settled(value, seed) for name, value in sorted(read.items()) if value is not None}


def aslist(value: Any) -> list[Any]:
    """A setting that may be one thing or several."""
    return value if isinstance(value, list) else [] if value is None else [value]


def class_of(entry: Any) -> str:
    """The class path of a callback or plugin."""
    return str(entry["class_path"]) if isinstance(entry, Mapping) else str(entry)


def count_zeros(stage: Any) -> dict[str, int]:
    """How many weights of each modality become zero, which says more than a share that is written in decimals."""
    return {name: int(share * stage.counts[name] + 0.5) for name, share in stage.sparsity.rates(stage.counts).items()}


def reader_of(stage: Any) -> Reader:
    """What of the configuration this stage reads."""
    holds_out = stage.protocol.dev_share > 0
    learns = stage.trains or stage.sparsity.make_criterion().batches > 0
    return Reader(stage.stage, stage.trains, learns, stage.objective.needs, stage.protocol.schedule, holds_out)


def table_entry(field: str) -> Reads | None:
    """When a field is read, by the longest entry that covers it; None where it is outside.

    Raises:
        KeyError: the field is in neither table.
    """
    name = field
    while name:
        if name in OUTSIDE:
            return None
        if name in IDENTITY:
            return IDENTITY[name]
        name = name.rpartition(".")[0]
    raise KeyError(f"sort {field} into IDENTITY or OUTSIDE in cdvqa/runs/identity.py")


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of a nested configuration: `model.backbone.config` for `model.init_args.backbone.init_args.config`."""
    for key, value in config.items():
        name = prefix.rstrip(".") if key == "init_args" else f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from flatten(value, f"{name}.")
        elif key != "init_args":
            yield name, value


def settled(value: Any, seed: int) -> Any:
    """A JSON-able value, in which the identity of a run stands for a path into its folder, and a digest for a file."""
    if isinstance(value, list | tuple):
        return [settled(part, seed) for part in value]
    if isinstance(value, str | Path) and ("/" in str(value) or Path(value).suffix) and Path(value).exists():
        return source_identity(Path(value), seed)
    return value if isinstance(value, bool | int | float | str | None) else str(value)


def source_identity(path: Path, seed: int) -> dict[str, Any]:
    """How a network, or another file that a run starts from, enters: as its run, with a seed if it is another."""
    if run := run_of(path):
        record = run.read()
        return {"identity": record["identity"]} | ({} if record["seed"] == seed else {"seed": record["seed"]})
    if path.suffix == ".safetensors":
        return {"tensors": tensors_digest(path)}
    return {"content": weights_identity(str(path))}


def digest_of(settings: Mapping[str, Any]) -> str:
    """SHA-256, in 64 hex digits, of the settings that are not as in the baseline."""
    own = {name: value for name, value in settings.items() if text(value) != text(BASELINE.get(name))}
    return hashlib.sha256(text(own).encode()).hexdigest()


def text(value: Any) -> str:
    """JSON with sorted keys; 1 and 1.0 differ: a number of steps and a share of them."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def differences(
    theirs: Mapping[str, Any], ours: Mapping[str, Any], passed_over: tuple[str, ...] = ()
) -> dict[str, tuple[Any, Any]]:
    """Settings in which two runs differ, with both values; one that is absent has its value in the baseline.

    Args:
        theirs, ours: settings by field.
        passed_over: fields, or beginnings of fields such as `trainer.`, that may differ.
    """
    found = {}
    for name in sorted({*theirs, *ours}):
        there, here = theirs.get(name, BASELINE.get(name)), ours.get(name, BASELINE.get(name))
        if text(there) != text(here) and not name.startswith(passed_over):
            found[name] = (there, here)
    return found


def differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The settings that are not the same in all of these runs."""
    return sorted({name for other in settings[1:] for name in differences(settings[0], other)})
