"""What a run is: every setting that can change the trained network, and a digest of them."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from inspect import signature
from pathlib import Path
from typing import Any

from cdvqa.files import read_json
from cdvqa.hub import VOCABULARIES
from cdvqa.runs.folder import run_of
from cdvqa.runs.weights import tensors_digest, weights_identity
from cdvqa.sparsity import MODALITIES, count_zeros

BASELINE: dict[str, Any] = read_json(Path(__file__).with_name("identity_baseline.json"))
"""Values that are left out of the digest. Only ever added to: a new option enters with the value that reproduces the
behaviour before it, and a default that changes does not change here. So a run keeps its identity."""


SHARES = ("overall", *MODALITIES, "pooler")
WEIGHTS = ("model.backbone.pretrained", "model.backbone.glove")

# Every config field is in one of the two tables, or below a field that is (`model.backbone` is a class_path and its
# arguments). Classes are written without `init_args`. A field counts where the stage reads it, see `conditions`.
READ = {
    "always": {
        "model.class_path", "model.backbone", "model.text_format", "data.name", "data.layout", "data.min_count",
        "data.extra_text", "data.tokenizer", "trainer.callbacks", "trainer.plugins",
    },
    "starts": {*WEIGHTS},  # later stages take their parent's weights
    "learns": {
        "model.objective", "model.objective_options", "model.teacher", "model.global_batch", "model.soft_score",
        "data.augmentation",
    },
    "takes prior": {"model.normalise_prior"},
    "takes label": {"model.no_answer"},
    "trains": {
        "model.lr", "model.objective_lr", "model.objective_clip", "model.optimizer", "model.weight_decay",
        "model.schedule", "model.selection", "trainer.precision", "trainer.fast_dev_run", "trainer.max_epochs",
        "trainer.min_epochs", "trainer.max_steps", "trainer.min_steps", "trainer.max_time",
        "trainer.limit_train_batches", "trainer.overfit_batches", "trainer.gradient_clip_val",
        "trainer.gradient_clip_algorithm", "trainer.use_distributed_sampler", "trainer.sync_batchnorm",
        "trainer.reload_dataloaders_every_n_epochs",
        # Validations decide which state is kept.
        "trainer.limit_val_batches", "trainer.val_check_interval", "trainer.check_val_every_n_epoch",
    },
    "warms up": {"model.warmup"},
    "may hold out": {"data.dev_share"},
    "holds out": {"data.dev_split", "data.split_seed"},
    "sparsifies": {"model.sparsity", "model.tie_break"},
    "trains masks": {
        "model.train_classifier", "model.reset_before_evaluation", "model.sparsity.alpha", "model.sparsity.threshold",
        "model.sparsity.reset_every",
        "model.also_trained",  # what `authors` trains beside the masks, which is no field
    },
}  # fmt: skip
IDENTITY = {field: condition for condition, fields in READ.items() for field in fields}

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
    "trainer.model_registry", "checkpoint_every_n_steps", "overwrite", "log", "quiet", "ckpt_path", "config", "runtime",
    "dtype",
    # Paths: `data.name` stands for the content of the files, which the fingerprints in run.json are of.
    "data.root", "data.features", "data.images", "data.questions", "trainer.default_root_dir",
}  # fmt: skip


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
        given = fields.get(name) or []
        fields[name] = [
            str(entry["class_path"] if isinstance(entry, Mapping) else entry)
            for entry in (given if isinstance(given, list) else [given])
        ]
    if stage.preset == "authors":
        fields["model.also_trained"] = stage.backbone.authors_also_train()
    if stage.sparsity is not None:
        for share in SHARES:
            fields.pop(f"model.sparsity.{share}", None)
        shares = stage.sparsity.rates(stage.counts)  # numbers of zeros say more than shares written in decimals
        fields |= {f"model.sparsity.zeros.{name}": count_zeros(s, stage.counts[name]) for name, s in shares.items()}
    for name in WEIGHTS:
        if source := fields.get(name):
            fields[name] = weights_identity(source)
    if source := fields.get("data.tokenizer"):
        fields["data.tokenizer"] = weights_identity(source, VOCABULARIES)
    met = conditions(stage)
    read = {name: value for name, value in fields.items() if value is not None and condition_of(name) in met}
    return {name: settled(value, seed) for name, value in sorted(read.items())}


def conditions(stage: Any) -> set[str]:
    """Which conditions of `READ` a stage meets."""
    trains, needs, holds_out = stage.trains, stage.objective.needs, stage.protocol.dev_share > 0
    learns = trains or stage.sparsity.make_criterion().batches > 0  # the criterion takes gradients of the objective
    met = {
        "always": True,
        "starts": stage.stage == 1,
        "learns": learns,
        "takes prior": learns and "prior" in needs,
        "takes label": learns and "label" in needs,
        "trains": trains,
        "warms up": trains and stage.protocol.schedule == "linear",
        # Without a share the last state is that of all training questions, or the choice was made on test.
        "may hold out": holds_out or (trains and stage.protocol.selection == "last" and not stage.has_dev),
        "holds out": holds_out,
        "sparsifies": stage.stage == 2,
        "trains masks": stage.stage == 2 and trains,
    }
    return {condition for condition, is_met in met.items() if is_met}


def condition_of(field: str) -> str | None:
    """When a field is read, by the longest entry that covers it; None where it is outside.

    Raises:
        KeyError: the field is in neither table.
    """
    name = field
    while name:
        if name in OUTSIDE or name in IDENTITY:
            return IDENTITY.get(name)
        name = name.rpartition(".")[0]
    raise KeyError(f"sort {field} into READ or OUTSIDE in cdvqa/runs/identity.py")


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
    return hashlib.sha256(text(own_settings(settings)).encode()).hexdigest()


def own_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that are not as in the baseline, which older records may lack altogether."""
    return {name: value for name, value in settings.items() if text(value) != text(BASELINE.get(name))}


def text(value: Any) -> str:
    """JSON with sorted keys; 1 and 1.0 differ: a number of steps and a share of them."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def differences(
    theirs: Mapping[str, Any], ours: Mapping[str, Any], ignored: tuple[str, ...] = ()
) -> dict[str, tuple[Any, Any]]:
    """Settings in which two runs differ, with both values; one that is absent has its value in the baseline.

    Args:
        theirs, ours: settings by field.
        ignored: fields, or beginnings of fields such as `trainer.`, that may differ.
    """
    found = {}
    for name in sorted({*theirs, *ours}):
        there, here = theirs.get(name, BASELINE.get(name)), ours.get(name, BASELINE.get(name))
        if text(there) != text(here) and not name.startswith(ignored):
            found[name] = (there, here)
    return found


def differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The settings that are not the same in all of these runs."""
    return sorted({name for other in settings[1:] for name in differences(settings[0], other)})
