"""Reading the file of a network, one tensor at a time."""

import math
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cdvqa.errors import InputError
from cdvqa.sparsity.files.header import Header, checksum

PIECE = 1 << 18
"""Weights that are expanded at a time: they stay in the processor's cache."""


class NetworkFile:
    """A network file. Its header is checked when it is opened, and a tensor when it is read.

    The header is not trusted before it is checked, so a broken file takes no more memory than a few times its size.
    Tensors are read one at a time from the memory-mapped file.

    Args:
        path: the file.

    Attributes:
        path: the file.
        names: the plain parameter names of all tensors, in their order in the network.
        shapes: those of the masked matrices, in the backbone's order.
        metadata: what JSON can hold: objective, sparsity, answer vocabulary, text format …

    Raises:
        InputError: no such file, a truncated or inconsistent one, one of another program or of a newer version. Reading
            a tensor raises it too.
    """

    def __init__(self, path: str | Path) -> None:
        if not Path(path).is_file():
            raise InputError(f"there is no subnetwork file {path}")
        try:
            with safe_open(path, framework="pt") as file:
                self._header = Header.read(path, file.metadata() or {})
                found = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
                self._header.check({key: (part.get_dtype(), part.get_shape()) for key, part in found.items()})
                self._stored: dict[str, Tensor] = {key: file.get_tensor(key) for key in found}
        except (SafetensorError, OSError) as error:
            raise InputError(
                f"{path} is truncated or no safetensors file ({error}); copy or create it again"
            ) from error
        self.path, self.metadata = path, self._header.metadata
        self.names, self.shapes = self._header.tensors, self._header.shapes

    def read(self, name: str, out: Tensor | None = None) -> Tensor:
        """A tensor, with zeros where it is pruned.

        Args:
            name: its plain parameter name.
            out: where to write it, a tensor of its shape; a new one of the stored type where null, fp32 of int8.
        """
        scale = self._sound(f"scale/{name}").float() if f"scale/{name}" in self._stored else None
        if name not in self.shapes:
            value = self._sound(f"dense/{name}")
            value = value.clone() if scale is None else scaled(value.float(), scale)
            return value if out is None else out.copy_(value)
        kept, bits = self._sound(f"kept/{name}"), self._bits(name)
        dtype = kept.dtype if scale is None else torch.float32
        fits = out is not None and out.dtype == dtype and out.device.type == "cpu" and out.is_contiguous()
        dense = out if fits and out is not None else torch.empty(self.shapes[name], dtype=dtype, device="cpu")
        expand(dense.view(-1), bits, kept)
        if scale is not None:
            scaled(dense, scale)
        return dense if out is None or dense is out else out.copy_(dense)

    def mask(self, name: str) -> Tensor:
        """The mask of a masked matrix: bool, True = kept."""
        bits = np.unpackbits(self._bits(name), count=math.prod(self.shapes[name]))
        return torch.from_numpy(bits.view(np.bool_)).reshape(self.shapes[name])

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        return self.shapes[name] if name in self.shapes else tuple(self._stored[f"dense/{name}"].shape)

    @property
    def masks(self) -> dict[str, Tensor]:
        """All masks by parameter name, in the backbone's order."""
        return {name: self.mask(name) for name in self.shapes}

    def fill(self, targets: Mapping[str, Tensor]) -> None:
        """Read the tensors of these names into `targets`, such as a state dict; as many at a time as torch has threads.

        Raises:
            InputError: one is not in the file or of another shape, and nothing was read; or one is damaged.
        """
        for name, target in targets.items():
            if name not in self.names:
                raise InputError(f"{self.path}: holds no {name}; it seems to be of another model")
            if self.shape(name) != target.shape:
                sizes = f"{list(self.shape(name))} there and {list(target.shape)} here"
                raise InputError(f"{self.path}: the shape of {name} is {sizes}; it seems to be of another model")
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            for _ in pool.map(lambda name: self.read(name, targets[name]), targets):
                pass

    def verify(self) -> None:
        """Read everything, one tensor at a time, so that a damaged one is found."""
        for name in self.names:
            self.read(name)

    def _sound(self, key: str) -> Tensor:
        """A stored tensor, if its bytes are those that were written, and finite."""
        tensor = self._stored[key]
        self._check_sum(key)
        # A sum overflows or is not finite where a value is not; it is ten times as fast as looking at each.
        doubtful = tensor.is_floating_point() and not tensor.sum(dtype=torch.float32).isfinite()
        if doubtful and not tensor.isfinite().all():
            self._header.refuse(f"{key:.60} has values that are not finite")
        return tensor

    def _check_sum(self, key: str) -> None:
        expected = self._header.checksums
        if expected is not None and checksum(self._stored[key]) != expected[key]:
            self._header.refuse(f"{key:.60} is damaged: its bytes are not those that were written")

    def _bits(self, name: str) -> NDArray[np.uint8]:
        """The mask of a matrix, eight weights a byte."""
        key, size = f"mask/{name}", math.prod(self.shapes[name])
        self._check_sum(key)
        bits = self._stored[key].numpy()
        if name in self._header.deflated:
            bits = self._inflated(key, bits, -(-size // 8))
        ones, kept = int(np.bitwise_count(bits).sum(dtype=np.int64)), len(self._stored[f"kept/{name}"])
        if ones != kept:
            self._header.refuse(f"the mask of {name:.60} keeps {ones} values, the file has {kept}")
        return bits

    def _inflated(self, key: str, codes: NDArray[np.uint8], length: int) -> NDArray[np.uint8]:
        inflater = zlib.decompressobj()
        try:
            content = inflater.decompress(codes.tobytes(), length + 1)
        except zlib.error as error:
            self._header.refuse(f"{key:.60} cannot be inflated ({error})")
        if len(content) != length:
            self._header.refuse(f"{key:.60} is not of {length} bytes")
        return np.frombuffer(content, np.uint8)


def scaled(matrix: Tensor, scale: Tensor) -> Tensor:
    """Multiply each row by its scale, in place."""
    matrix.view(len(scale), math.prod(matrix.shape[1:])).mul_(scale[:, None])
    return matrix


def expand(out: Tensor, bits: NDArray[np.uint8], kept: Tensor) -> None:
    """Write kept values to the weights (1-D) whose bit is 1, and 0 to the others.

    By positions, piece by piece: `masked_scatter` has to guess every bit, and numpy's assignment takes a third of the
    time of torch's `index_copy`.
    """
    if kept.dtype == torch.bfloat16:  # numpy has no such type, but only copies here
        out, kept = out.view(torch.int16), kept.view(torch.int16)
    weights, values, start = out.numpy(), kept.numpy(), 0
    for number, of_piece in enumerate(pieces(bits)):
        piece = weights[number * PIECE : (number + 1) * PIECE]
        (positions,) = np.unpackbits(of_piece, count=len(piece)).view(np.bool_).nonzero()
        piece.fill(0)
        piece[positions] = values[start : start + len(positions)]
        start += len(positions)


def pieces(bits: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """The bytes of a mask, `PIECE` weights at a time."""
    for start in range(0, max(len(bits), 1), PIECE // 8):
        yield bits[start : start + PIECE // 8]
