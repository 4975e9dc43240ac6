"""What the processes of a run tell each other."""

from typing import Any, TypeVar

import torch.distributed as dist

Part = TypeVar("Part")


def gather(parts: list[Part]) -> list[Part]:
    """The parts of all processes, in the order of the processes, on every process; all have to call it."""
    if not (dist.is_available() and dist.is_initialized()):
        return parts
    lists: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(lists, parts)
    return [part for of_process in lists for part in of_process]
