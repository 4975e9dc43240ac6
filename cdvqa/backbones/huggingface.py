"""Configurations and pre-trained weights through transformers, and what backbones with BERT's layers share."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from cdvqa.backbones.backbone import LoadReport
from cdvqa.errors import InputError
from cdvqa.hub import WEIGHTS, is_local
from cdvqa.messages import progress_bar
from cdvqa.sparsity.patterns import Part, Structure

Config = TypeVar("Config", bound=PreTrainedConfig)
Model = TypeVar("Model", bound=PreTrainedModel)
BERT_ATTENTION = ("self.query", "self.key", "self.value", "output.dense")
BERT_LAYER = (*(f"attention.{part}" for part in BERT_ATTENTION), "intermediate.dense", "output.dense")
NO_SIZES = {"transformers_version", "model_type", "architectures", "dtype"}  # other fields of a configuration
REMEDY = "give a folder that holds config.json and model.safetensors with --model.backbone.pretrained FOLDER"
ENOUGH = 0.95  # share of the parameters; a checkpoint that fills less is another model's


def heads(attention: str, number: int, inner: str = "self") -> Structure:
    """The `number` heads of the attention module named `attention`; its part `inner` holds query, key and value."""
    rows = [Part(f"{attention}.{inner}.{name}.weight", 0) for name in ("query", "key", "value")]
    return Structure(f"{attention}: heads", number, (*rows, Part(f"{attention}.output.dense.weight", 1)))


def neurons(first: str, second: str, number: int) -> Structure:
    """The `number` neurons between two linear layers, given by name."""
    return Structure(f"{first}: neurons", number, (Part(f"{first}.weight", 0), Part(f"{second}.weight", 1)))


def bert_layer(layer: str, config: Any) -> list[Structure]:
    """The heads and neurons of the BERT layer named `layer`."""
    return [
        heads(f"{layer}.attention", config.num_attention_heads),
        neurons(f"{layer}.intermediate.dense", f"{layer}.output.dense", config.intermediate_size),
    ]


def architecture(
    config_class: type[Config], pretrained: str | None, config: dict[str, Any] | None, **published: Any
) -> Config:
    """The configuration to build: that of a local folder, or the published model's with the changes in `config`.

    Nothing is downloaded: a hub name stands for the published model.

    Args:
        config_class: of the model.
        pretrained: hub name or local folder of the weights; None for a model from scratch.
        config: the configuration of a model from scratch; what it leaves out is the published model's.
        published: where the published model departs from `config_class`'s defaults.

    Raises:
        InputError: both `pretrained` and `config`, or a folder without a configuration.
    """
    check_from_scratch(pretrained, config)
    if pretrained is not None and Path(pretrained).is_dir():
        if not (Path(pretrained) / "config.json").is_file():
            raise InputError(f"{pretrained}: no config.json in this folder; is it in Hugging Face's format?")
        return config_class.from_pretrained(pretrained)
    return config_class(**(published | (config or {})))


def check_from_scratch(pretrained: str | None, config: dict[str, Any] | None) -> None:
    """Raise InputError where both are given: `config` describes a model from scratch."""
    if config is not None and pretrained is not None:
        raise InputError("--model.backbone: `config` is for a model from scratch; set `pretrained` to null with it")


def head_dropout(config: PreTrainedConfig) -> float:
    """Dropout of the answer head: the configuration's `classifier_dropout`, or the authors' 0.5."""
    dropout: float | None = getattr(config, "classifier_dropout", None)
    return 0.5 if dropout is None else dropout


def sizes_of(config: PreTrainedConfig) -> dict[str, Any]:
    """The `config` argument that builds a model with this configuration from scratch."""
    return {name: value for name, value in config.to_diff_dict().items() if name not in NO_SIZES}


def load_from_hub(model_class: type[Model], source: str, config: PreTrainedConfig) -> tuple[Model, LoadReport]:
    """Load `model_class` from a hub name or a local folder in Hugging Face's format, in training mode.

    Raises:
        InputError: weights absent, unreadable, of another shape, or matching less than 95 % of the parameters.
    """
    local = is_local(source, WEIGHTS, REMEDY)
    disable_progress_bar()  # one of our own
    set_verbosity_error()  # no table of names that do not fit: the report says it in one line
    try:
        # Tensors of another shape are refused below, by name: transformers' own error names none of them.
        with progress_bar("reading weights"):
            loaded: Any = model_class.from_pretrained(
                source, config=config, output_loading_info=True, ignore_mismatched_sizes=True, local_files_only=local
            )
    except (OSError, SafetensorError, EOFError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{source}: cannot load weights ({reason}); {REMEDY}") from error
    model, info = loaded
    if info["mismatched_keys"]:
        name, theirs, ours = min(info["mismatched_keys"])
        raise InputError(
            f"{source}: {name} is {list(theirs)}, the model's is {list(ours)}; "
            "give a folder whose config.json goes with its weights with --model.backbone.pretrained FOLDER"
        )
    sizes = {name: tensor.numel() for name, tensor in model.state_dict().items()}
    missing, unexpected = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    report = load_report(source, sizes, missing, unexpected, model_class.__name__)
    # transformers returns models in evaluation mode, and Lightning keeps the mode: dropout would stay off.
    return model.train(), report


def load_report(
    source: str, sizes: Mapping[str, int], missing: list[str], unexpected: list[str], model: str
) -> LoadReport:
    """Report how many parameters a checkpoint filled.

    Args:
        source: where the weights came from.
        sizes: number of elements of each parameter that the checkpoint should hold, by name.
        missing: names that the model has and the checkpoint lacks.
        unexpected: names that the checkpoint has and the model lacks.
        model: name of the model, for the error.

    Raises:
        InputError: the checkpoint filled less than 95 %.
    """
    lacking = [name for name in missing if name in sizes]
    total = sum(sizes.values())
    report = LoadReport(source, total - sum(sizes[name] for name in lacking), total, missing, unexpected)
    if report.share < ENOUGH:
        raise InputError(f"{report}; first missing: {lacking[0]}; this is not a checkpoint of {model}")
    return report
