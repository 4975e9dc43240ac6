"""A ResNet of the package transformers, applied to one image at a time."""

import hashlib
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from transformers import AutoConfig, ImageProcessingMixin, ResNetConfig, ResNetModel
from transformers.utils import logging

from cdvqa.errors import InputError

_REMEDY = (
    "give a folder that holds config.json, preprocessor_config.json and model.safetensors of a ResNet "
    "with --checkpoint FOLDER"
)


class ResNet:
    """A ResNet without its classifier, with the normalisation of its checkpoint.

    Attributes:
        name: the checkpoint, and a digest that distinguishes it from others of that name.
    """

    def __init__(self, checkpoint: str) -> None:
        self._model, settings = _load(checkpoint)
        self._mean, self._std = (_per_channel(checkpoint, settings, name) for name in ("image_mean", "image_std"))
        name = Path(checkpoint).resolve().name if Path(checkpoint).is_dir() else checkpoint
        self.name = f"{name}, sha256 {self._digest()} (weights, mean, std)"

    def last_stage(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Features (F, h, w) of the last stage for an RGB image (H, W, 3).

        One image at a time and in one thread: the number of threads, and on some machines the other images of a batch,
        change the order of sums and so the last bits. On a CPU a batch is no faster.
        """
        with _one_thread(), torch.no_grad():
            image = (torch.from_numpy(pixels).float() / 255 - self._mean) / self._std
            batch = image.permute(2, 0, 1)[None].contiguous()
            features: NDArray[np.float32] = self._model(batch).last_hidden_state[0].numpy()
            return features

    def _digest(self) -> str:
        """The start of a SHA-256 over weights and statistics, in the order of their names, and the normalisation."""
        digest = hashlib.sha256()
        for _, values in sorted(_learnt(self._model).items()):
            digest.update(values.numpy().tobytes())
        digest.update(self._mean.numpy().tobytes() + self._std.numpy().tobytes())
        return digest.hexdigest()[:12]


@lru_cache(maxsize=1)
def load_resnet(checkpoint: str) -> ResNet:
    """The network of a checkpoint (a hub name, or a folder in that format), loaded once in each process.

    Raises:
        InputError: the checkpoint is not available, incomplete, or no ResNet over RGB images.
    """
    return ResNet(checkpoint)


def _load(checkpoint: str) -> tuple[ResNetModel, dict[str, Any]]:
    """The model in evaluation mode, and the settings of its image processor."""
    try:
        with _silence():
            config = AutoConfig.from_pretrained(checkpoint)
            if not isinstance(config, ResNetConfig) or config.num_channels != 3:
                raise InputError(f"{checkpoint}: a {config.model_type}, not a ResNet over RGB images; {_REMEDY}")
            settings, _ = ImageProcessingMixin.get_image_processor_dict(checkpoint)
            loaded: Any = ResNetModel.from_pretrained(
                checkpoint, config=config, dtype=torch.float32, output_loading_info=True
            )
    except (OSError, SafetensorError, pickle.UnpicklingError, EOFError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{checkpoint}: cannot load the network ({reason}); {_REMEDY}") from error
    model, info = loaded
    missing = sorted(set(info["missing_keys"]) & set(_learnt(model)))
    if missing:
        raise InputError(f"{checkpoint}: its weights lack {len(missing)} of the network's, as {missing[0]}; {_REMEDY}")
    return model.eval(), settings


def _learnt(model: ResNetModel) -> dict[str, torch.Tensor]:
    """All but the counters of batches, which evaluation does not use and some checkpoints do not have."""
    return {name: values for name, values in model.state_dict().items() if values.is_floating_point()}


def _per_channel(checkpoint: str, settings: dict[str, Any], name: str) -> torch.Tensor:
    try:
        values = torch.tensor(settings.get(name), dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError):
        values = torch.empty(0)
    if values.shape != (3,) or not values.isfinite().all() or (name == "image_std" and not (values > 0).all()):
        given = settings.get(name)
        raise InputError(f"{checkpoint}: preprocessor_config.json: {name} must be three numbers, not {given!r}")
    return values


@contextmanager
def _silence() -> Iterator[None]:
    """Hide the progress bar of a short load, and the warning that the classifier's weights are not used."""
    before = logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
