"""One of two DDP processes that train with slots and the plain way: `python -m … FILE RANK`."""

import os
import sys
from contextlib import nullcontext

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from tests.sparsity.masks.test_slot import Pair, Shared, score


def main(rendezvous: str, rank: int) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    checksums = []
    for as_view in (False, True):
        pair = Pair(lambda: Shared(tied=True))
        pair.generator.manual_seed(rank)  # each process has questions of its own
        for model in pair.models:
            model.dead.requires_grad_(False)
        wrapped = [DistributedDataParallel(model, gradient_as_bucket_view=as_view) for model in pair.models]
        for step in range(1, 9):
            one, two = pair.loss(), pair.loss()
            for model in wrapped:
                for loss, context in ((one, model.no_sync()), (two, nullcontext())):
                    with context:
                        loss(model).backward()
            pair.step()
            if step % 3 == 0:
                pair.reset()
                pair.tie()
            pair.check()
        checksums.append(float(score(pair.models[0], "vision").sum()))
    print("bit-equal after 8 steps", checksums, flush=True)
    distributed.destroy_process_group()
    # torch 2.13 can hang when the DDP models are freed: that waits for a thread of gloo, and holds the GIL it wants.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
