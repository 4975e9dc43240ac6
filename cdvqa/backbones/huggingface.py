"""Reading pre-trained weights through transformers, with a report that cannot be overlooked."""

from typing import Any, TypeVar

from safetensors import SafetensorError
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from cdvqa.backbones.backbone import LoadReport
from cdvqa.errors import InputError

Model = TypeVar("Model", bound=PreTrainedModel)
ENOUGH = 0.95  # a checkpoint that fills less than this share is another model's


def load_from_hub(model_class: type[Model], source: str, config: PreTrainedConfig) -> tuple[Model, LoadReport]:
    """Load `model_class` from a hub name or a local folder in Hugging Face's format, in training mode.

    Raises:
        InputError: weights absent, unreadable, of another shape, or matching less than 95 % of the parameters.
    """
    disable_progress_bar()  # a bar per load, with nothing to wait for
    try:
        loaded: Any = model_class.from_pretrained(source, config=config, output_loading_info=True)
    except (OSError, SafetensorError, EOFError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"{source}: cannot load weights ({reason}); "
            "give a folder that holds config.json and model.safetensors with --model.backbone.pretrained FOLDER"
        ) from error
    model, info = loaded
    sizes = {name: tensor.numel() for name, tensor in model.state_dict().items()}
    missing = sorted(info["missing_keys"])
    total = sum(sizes.values())
    matched = total - sum(sizes[name] for name in missing)
    report = LoadReport(source, matched, total, missing, sorted(info["unexpected_keys"]))
    if report.share < ENOUGH:
        raise InputError(f"{report}; first missing: {missing[0]}; this is not a checkpoint of {model_class.__name__}")
    # transformers hands out models in evaluation mode and Lightning keeps the mode it finds: dropout would stay off.
    return model.train(), report
