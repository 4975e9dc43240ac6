"""A pruned model by itself: weights, masks and what is needed to use them."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from cdvqa.files import write_atomically
from cdvqa.sparsity.attach import dense_state
from cdvqa.sparsity.files.read import NetworkFile
from cdvqa.sparsity.files.write import Precision, write_network
from cdvqa.sparsity.masks.matrices import masks


@dataclass
class Subnetwork:
    """A pruned model in memory; without masks it is a full one."""

    state: dict[str, Tensor]
    """Tensors by plain parameter name; masked matrices are dense and hold zeros where pruned."""
    masks: dict[str, Tensor]
    """Bool masks by parameter name, True = kept, in the backbone's order."""
    metadata: dict[str, Any]
    """What JSON can hold: objective, sparsity, answer vocabulary, text format …"""

    @classmethod
    def from_model(cls, model: nn.Module, metadata: dict[str, Any]) -> "Subnetwork":
        """Copy a model with masks attached, as its masks are now; the model is left as it is."""
        return cls(dense_state(model), {name: mask.cpu() for name, mask in masks(model).items()}, metadata)

    def save(self, path: str | Path, precision: Precision | None = None, whole: Collection[str] = ()) -> None:
        """Write the file, whole or not at all; arguments and errors are those of `write_network`."""
        with write_atomically(path) as temporary:
            write_network(temporary, self.state, self.masks, self.metadata, precision, whole)

    @classmethod
    def load(cls, path: str | Path) -> "Subnetwork":
        """Read a file back, to the last bit of what it holds; errors are those of `NetworkFile`."""
        file = NetworkFile(path)
        return cls({name: file.read(name) for name in file.names}, file.masks, file.metadata)
