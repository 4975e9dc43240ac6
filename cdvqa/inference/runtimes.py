"""What computes a network's scores: torch, compiled torch, sparse rows, onnxruntime; and which is fastest here."""

from collections.abc import Callable
from pathlib import Path

from torch import Tensor, nn

from cdvqa.data.batch import VQABatch
from cdvqa.inference.graph import onnx_session, openvino_session
from cdvqa.inference.scorer import Scorer, inputs_of

Runtime = Callable[[VQABatch], Tensor]
SPARSE = 0.95  # share of zeros of a matrix from which sparse rows are tried


def torch_runtime(scorer: Scorer) -> Runtime:
    """Scores (B, A) in fp32 by torch, as `test` computes them."""
    return lambda batch: scorer(**inputs_of(batch))  # type: ignore[no-any-return]


def onnx_runtime(path: Path, threads: int) -> Runtime:
    """Scores by onnxruntime, of a file that `write_onnx` wrote."""
    session = onnx_session(path, threads)
    return lambda batch: session(inputs_of(batch))


def openvino_runtime(path: Path, threads: int) -> Runtime:
    """Scores by OpenVINO, of a file that `write_openvino` wrote."""
    session = openvino_session(path, threads)
    return lambda batch: session(inputs_of(batch))


class SparseRows(nn.Module):
    """A linear layer whose weight is stored by its rows' non-zeros (CSR).

    Args:
        layer: what it replaces.
    """

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.weight = layer.weight.detach().to_sparse_csr()
        self.bias = layer.bias

    def forward(self, states: Tensor) -> Tensor:
        """(…, out) of (…, in)."""
        product = self.weight @ states.flatten(0, -2).t()
        product = product.t().unflatten(0, states.shape[:-1])
        return product if self.bias is None else product + self.bias


def with_sparse_rows(scorer: Scorer) -> int:
    """Replace, in place, every linear layer of which `SPARSE` or more is zero; return how many there are."""
    replaced = 0
    for module in list(scorer.modules()):
        for name, layer in list(module.named_children()):
            if isinstance(layer, nn.Linear) and (layer.weight == 0).float().mean() >= SPARSE:
                setattr(module, name, SparseRows(layer))
                replaced += 1
    return replaced
