"""What the objectives with one label per question share: questions without a label do not count."""

import torch
from torch import Tensor


def labelled_only(label: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Keep the rows whose label (B,) is not -1: the labels first, then each of `tensors` (B, …)."""
    rows = label >= 0
    return label[rows], *(tensor[rows] for tensor in tensors)


def mean_or_zero(losses: Tensor) -> Tensor:
    """Mean of losses (N,); 0, still attached to the graph, where N is 0."""
    return losses.mean() if len(losses) else torch.sum(losses)
